//! [`HealthManager`]: named components, each Healthy, Warning or Critical; the worst decides.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How well something is. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Healthy,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// How well it is.
    pub level: Level,
    /// In a sentence.
    pub message: String,
    /// Numbers behind it, a JSON object.
    pub data: Value,
}

impl Check {
    /// A check without numbers.
    pub fn new(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into(), data: Value::Null }
    }

    /// With the numbers behind it.
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

/// A component as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// `database`, `queue`, `disk`, `lane`, or what the embedding service registered.
    pub name: String,
    /// How well it is.
    pub level: Level,
    /// In a sentence.
    pub message: String,
    /// Numbers behind it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

type CheckFn = Box<dyn Fn() -> Check + Send + Sync>;

/// The components of a service and their checks. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct HealthManager {
    checks: Arc<RwLock<Vec<(String, CheckFn)>>>,
}

impl HealthManager {
    /// Adds a component, or replaces the one of that name. The check runs on every question: it must not block.
    pub fn register(&self, name: impl Into<String>, check: impl Fn() -> Check + Send + Sync + 'static) {
        let name = name.into();
        let mut checks = self.checks.write().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|(other, _)| *other != name);
        checks.push((name, Box::new(check)));
    }

    /// Every component as it stands now, in the order of registration.
    pub fn components(&self) -> Vec<Component> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        checks
            .iter()
            .map(|(name, check)| {
                let Check { level, message, data } = check();
                Component { name: name.clone(), level, message, data }
            })
            .collect()
    }

    /// The worst of the components; Healthy without any.
    pub fn level(&self) -> Level {
        self.components().iter().map(|component| component.level).max().unwrap_or(Level::Healthy)
    }
}

impl std::fmt::Debug for HealthManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.components()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_component_decides() {
        let health = HealthManager::default();
        assert_eq!(health.level(), Level::Healthy);
        health.register("queue", || Check::new(Level::Warning, "three quarters full"));
        health.register("disk", || Check::new(Level::Healthy, "fine"));
        assert_eq!(health.level(), Level::Warning);
        health.register("disk", || Check::new(Level::Critical, "failed"));
        assert_eq!(health.level(), Level::Critical);
        assert_eq!(health.components().len(), 2);
    }
}
