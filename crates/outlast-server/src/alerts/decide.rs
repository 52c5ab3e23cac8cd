//! What to tell: (what was told, what is seen, now) -> notices. No clock, no socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outlast::Status;
use outlast::health::Level;

use crate::config::AlertKind;

/// Something that is as it should not be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) kind: AlertKind,
    pub(super) level: Level,
    /// In a sentence.
    pub(super) summary: String,
}

/// Why a notice is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It began, or became critical.
    Fire,
    /// It lasts.
    Repeat,
    /// It is over.
    Restored,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Fire => "fire",
            Self::Repeat => "repeat",
            Self::Restored => "restored",
        }
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    pub(super) kind: AlertKind,
    pub(super) event: Event,
    pub(super) level: Level,
    pub(super) summary: String,
    /// When the alert began (RFC 3339).
    pub(super) since: String,
    /// When this was decided.
    pub(super) at: String,
}

/// What the status holds against whoever runs this.
pub(super) fn conditions(status: &Status) -> Vec<Condition> {
    let dead = status.accounting.dead;
    let dead = (dead > 0).then(|| Condition {
        kind: AlertKind::DeadLetters,
        level: Level::Warning,
        summary: format!("{dead} dead letters: outlast dead list groups them by reason"),
    });
    let components = status.components.iter().filter_map(|component| {
        let (kind, least) = match component.name.as_str() {
            "database" => (AlertKind::Outage, Level::Critical),
            "queue" => (AlertKind::Queue, Level::Warning),
            // A pause is somebody's wish.
            "lane" => (AlertKind::Delivery, Level::Critical),
            "log" => (AlertKind::Log, Level::Critical),
            "losses" => (AlertKind::Losses, Level::Warning),
            _ => return None,
        };
        let level = if kind == AlertKind::Losses { Level::Critical } else { component.level };
        let summary = format!("{}: {}", component.name, component.message);
        (component.level >= least).then_some(Condition { kind, level, summary })
    });
    components.chain(dead).collect()
}

/// What was told and is not over.
#[derive(Debug)]
pub(super) struct Watch {
    on: Vec<AlertKind>,
    repeat: Option<Duration>,
    calm: Duration,
    firing: BTreeMap<AlertKind, Firing>,
}

#[derive(Debug)]
struct Firing {
    since: String,
    /// The worst that was told.
    level: Level,
    told: Instant,
    seen: Instant,
    summary: String,
}

impl Watch {
    /// Tells of these kinds, again every `repeat`; an alert is over when it was not seen for `calm`.
    pub(super) fn new(on: Vec<AlertKind>, repeat: Option<Duration>, calm: Duration) -> Self {
        Self { on, repeat, calm, firing: BTreeMap::new() }
    }

    /// What to tell now; `at` is the time for people.
    pub(super) fn step(&mut self, now: Instant, at: &str, seen: &[Condition]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for condition in seen.iter().filter(|condition| self.on.contains(&condition.kind)) {
            let event = match self.firing.get_mut(&condition.kind) {
                None => Some(Event::Fire),
                Some(firing) => {
                    firing.seen = now;
                    firing.summary.clone_from(&condition.summary);
                    let due = self.repeat.is_some_and(|repeat| now.duration_since(firing.told) >= repeat);
                    let worse = condition.level > firing.level;
                    if worse { Some(Event::Fire) } else { due.then_some(Event::Repeat) }
                }
            };
            let Some(event) = event else { continue };
            let Condition { kind, level, summary } = condition.clone();
            let firing = self.firing.entry(kind).or_insert_with(|| Firing {
                since: at.to_owned(),
                level,
                told: now,
                seen: now,
                summary: summary.clone(),
            });
            (firing.level, firing.told) = (level, now);
            notices.push(Notice {
                kind,
                event,
                level,
                summary,
                since: firing.since.clone(),
                at: at.to_owned(),
            });
        }
        let over = |firing: &Firing| now.duration_since(firing.seen) >= self.calm;
        for (kind, firing) in self.firing.extract_if(.., |_, firing| over(firing)) {
            let Firing { since, level, summary, .. } = firing;
            let summary = format!("over; it was: {summary}");
            notices.push(Notice { kind, event: Event::Restored, level, summary, since, at: at.to_owned() });
        }
        notices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn condition(kind: AlertKind, level: Level) -> Condition {
        Condition { kind, level, summary: format!("{} {level:?}", kind.as_str()) }
    }

    /// What is told when this is seen second by second, as `SECOND EVENT ALERT LEVEL`.
    fn told(watch: &mut Watch, seconds: u64, seen: impl Fn(u64) -> Vec<Condition>) -> Vec<String> {
        let start = Instant::now();
        let step =
            |second| watch.step(start + SECOND * second as u32, &format!("at {second}"), &seen(second));
        let notices = (0..seconds).flat_map(step);
        notices
            .map(|notice| {
                let second = notice.at.strip_prefix("at ").unwrap().to_owned();
                format!("{second} {} {} {:?}", notice.event.as_str(), notice.kind.as_str(), notice.level)
            })
            .collect()
    }

    fn watch(repeat: Option<u32>) -> Watch {
        Watch::new(AlertKind::ALL.to_vec(), repeat.map(|seconds| SECOND * seconds), SECOND * 3)
    }

    #[test]
    fn an_alert_is_told_when_it_begins_again_while_it_lasts_and_when_it_is_over() {
        let outage = |second| {
            let lasts = (2..23).contains(&second);
            if lasts { vec![condition(AlertKind::Outage, Level::Critical)] } else { vec![] }
        };
        assert_eq!(
            told(&mut watch(Some(10)), 60, outage),
            [
                "2 fire outage Critical",
                "12 repeat outage Critical",
                "22 repeat outage Critical",
                "25 restored outage Critical"
            ]
        );
        assert_eq!(
            told(&mut watch(None), 60, outage),
            ["2 fire outage Critical", "25 restored outage Critical"]
        );
    }

    #[test]
    fn every_component_that_is_bad_enough_becomes_its_alert() {
        let component =
            |name: &str, level: &str| serde_json::json!({ "name": name, "level": level, "message": "m" });
        let status = |level: &str, dead: u64| -> Status {
            let names = ["database", "queue", "lane", "log", "losses", "one of the embedding service"];
            serde_json::from_value(serde_json::json!({
                "health": level, "components": names.map(|name| component(name, level)),
                "database": { "state": "disconnected" }, "database_name": "", "lane": { "state": "running" },
                "queue": outlast::status::QueueStatus::default(),
                "accounting": outlast::status::Accounting { dead, ..Default::default() },
                "accounting_holds": true, "accepting": true,
            }))
            .unwrap()
        };
        let kinds = |status: &Status| -> Vec<(AlertKind, Level)> {
            conditions(status).into_iter().map(|condition| (condition.kind, condition.level)).collect()
        };
        assert_eq!(kinds(&status("healthy", 0)), []);
        assert_eq!(
            kinds(&status("warning", 2)),
            [
                (AlertKind::Queue, Level::Warning),
                (AlertKind::Losses, Level::Critical),
                (AlertKind::DeadLetters, Level::Warning)
            ]
        );
        let critical = kinds(&status("critical", 0)).into_iter().map(|(kind, _)| kind);
        assert_eq!(
            critical.collect::<Vec<_>>(),
            [AlertKind::Outage, AlertKind::Queue, AlertKind::Delivery, AlertKind::Log, AlertKind::Losses]
        );
    }

    #[test]
    fn what_comes_and_goes_is_told_once() {
        let flapping = |second| {
            if second < 40 && second % 3 == 0 {
                vec![condition(AlertKind::Queue, Level::Warning)]
            } else {
                vec![]
            }
        };
        assert_eq!(
            told(&mut watch(None), 60, flapping),
            ["0 fire queue Warning", "42 restored queue Warning"]
        );
    }

    #[test]
    fn what_becomes_critical_is_told_at_once_and_what_becomes_better_is_not() {
        let filling = |second| match second {
            0..5 | 10..15 => vec![condition(AlertKind::Queue, Level::Warning)],
            5..10 | 15..20 => vec![condition(AlertKind::Queue, Level::Critical)],
            _ => vec![],
        };
        assert_eq!(
            told(&mut watch(None), 60, filling),
            ["0 fire queue Warning", "5 fire queue Critical", "22 restored queue Critical"]
        );
    }

    #[test]
    fn alerts_are_told_apart_and_only_those_that_are_wanted() {
        let all = |_| AlertKind::ALL.map(|kind| condition(kind, Level::Critical)).to_vec();
        assert_eq!(told(&mut watch(None), 5, all).len(), 6);
        let mut some = Watch::new(vec![AlertKind::Log], None, SECOND);
        assert_eq!(told(&mut some, 5, all), ["0 fire log Critical"]);
    }

    #[test]
    fn the_time_at_which_it_began_stays() {
        let mut watch = watch(Some(1));
        let start = Instant::now();
        let seen = [condition(AlertKind::DeadLetters, Level::Warning)];
        watch.step(start, "first", &seen);
        let again = watch.step(start + SECOND, "second", &seen);
        assert_eq!((again[0].since.as_str(), again[0].at.as_str()), ("first", "second"));
        let over = watch.step(start + SECOND * 9, "third", &[]);
        assert_eq!((over[0].since.as_str(), over[0].at.as_str()), ("first", "third"));
        assert_eq!(over[0].summary, "over; it was: dead_letters Warning");
    }
}
