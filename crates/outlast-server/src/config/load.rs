//! Reads the configuration: flag over environment over file over default, and nothing unknown goes unnoticed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use outlast::options::Encryption;

use super::file::{self, Entry};
use super::keys;
use super::settings::{self, Config, EncryptionConfig, SETTINGS};
use super::suggest::nearest;
use super::value::Secret;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// This line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// This environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Where values may come from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The file that was named; without one `outlast.toml` in the working directory is read if it is there.
    pub file: Option<PathBuf>,
    /// The environment: only variables that begin with `OUTLAST_` matter, and some of OpenTelemetry's.
    pub environment: Vec<(String, String)>,
    /// Flags: the flag as it was typed, the setting, the value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    sources: BTreeMap<&'static str, Source>,
}

impl Loaded {
    /// Where the value of a setting came from.
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }
}

/// What is wrong with a configuration: every mistake, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("\n"))]
pub struct ConfigError {
    /// One sentence each, with where it stands.
    pub mistakes: Vec<String>,
}

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "outlast.toml";

/// Reads everything.
///
/// # Errors
/// Every mistake that was found, with where it stands.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), file: None, sources: BTreeMap::new() };
    let mut mistakes = Vec::new();
    for (name, key, value) in standard_variables(&inputs.environment) {
        set(&mut loaded, key, &value, Source::Environment(name.to_owned()), &mut mistakes);
    }
    read_file(inputs.file.as_deref(), &mut loaded, &mut mistakes);
    for (name, value) in &inputs.environment {
        if let Some(key) = key_of_variable(name, &mut mistakes) {
            set(&mut loaded, &key, value, Source::Environment(name.clone()), &mut mistakes);
        }
    }
    for (flag, key, value) in &inputs.flags {
        set(&mut loaded, key, value, Source::Flag(flag.clone()), &mut mistakes);
    }
    if mistakes.is_empty() {
        check_together(&mut loaded, &mut mistakes);
    }
    if mistakes.is_empty() { Ok(loaded) } else { Err(ConfigError { mistakes }) }
}

/// What programs with OpenTelemetry read from the environment. Whatever is said to Outlast itself goes before it.
fn standard_variables(environment: &[(String, String)]) -> Vec<(&'static str, &'static str, String)> {
    let of = |name: &str| {
        let found = environment.iter().find(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    let below = |base: String| format!("{}/v1/traces", base.trim_end_matches('/'));
    let off = of("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if off || of("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none") {
        return Vec::new();
    }
    let known = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.endpoint", of("OTEL_EXPORTER_OTLP_ENDPOINT").map(below)),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces.endpoint", of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")),
        ("OTEL_SERVICE_NAME", "traces.service_name", of("OTEL_SERVICE_NAME")),
        ("OTEL_TRACES_SAMPLER_ARG", "traces.sample_ratio", of("OTEL_TRACES_SAMPLER_ARG")),
    ];
    known.into_iter().filter_map(|(name, key, value)| Some((name, key, value?))).collect()
}

fn read_file(named: Option<&Path>, loaded: &mut Loaded, mistakes: &mut Vec<String>) {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            mistakes.push(format!("the configuration file {} could not be read: {error}", path.display()));
            return;
        }
    };
    loaded.file = Some(path.to_owned());
    match file::read(&text) {
        Ok(entries) => {
            for Entry { key, value, line } in entries {
                let source = Source::File { path: path.to_owned(), line };
                match value {
                    Ok(value) => set(loaded, &key, &value, source, mistakes),
                    Err(why) if settings::find(&key).is_some() => {
                        mistakes.push(format!("{source}: {key}: {why}"));
                    }
                    Err(_) => set(loaded, &key, "", source, mistakes),
                }
            }
        }
        Err((line, message)) => mistakes.push(format!("{}:{line}: {message}", path.display())),
    }
}

/// The setting that a variable names, or `None` when it is not for the configuration.
fn key_of_variable(name: &str, mistakes: &mut Vec<String>) -> Option<String> {
    let rest = name.strip_prefix("OUTLAST_")?;
    let Some((section, key)) = rest.split_once("__") else {
        // Nothing else is said of others with this beginning: Kubernetes makes some for a service of that name.
        let mut known = SETTINGS.iter().map(|setting| settings::variable(setting.key));
        if let Some(meant) = known.find(|known| known.replacen("__", "_", 1) == name) {
            mistakes.push(format!(
                "the environment variable {name} names no setting: write {meant}, with two underscores behind the section"
            ));
        }
        return None;
    };
    let dotted = format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase());
    if settings::find(&dotted).is_some() && settings::variable(&dotted) == name {
        return Some(dotted);
    }
    let known: Vec<String> = SETTINGS.iter().map(|setting| settings::variable(setting.key)).collect();
    let hint = did_you_mean(nearest(name, known.iter().map(String::as_str)));
    mistakes.push(format!("the environment variable {name} names no setting{hint}"));
    None
}

fn set(loaded: &mut Loaded, key: &str, value: &str, source: Source, mistakes: &mut Vec<String>) {
    let Some(setting) = settings::find(key) else {
        let near =
            nearest(key, SETTINGS.iter().map(|setting| setting.key)).or_else(|| same_name_elsewhere(key));
        mistakes.push(format!("{source}: unknown setting {key}{}", did_you_mean(near)));
        return;
    };
    match (setting.slot)(&mut loaded.config).read(value, setting.bounds) {
        Ok(()) => {
            loaded.sources.insert(setting.key, source);
        }
        Err(why) => mistakes.push(format!("{source}: {key}: {why}")),
    }
}

/// The same last part in another section: `server.directory` was meant to be `queue.directory`.
fn same_name_elsewhere(key: &str) -> Option<&'static str> {
    let name = key.rsplit('.').next()?;
    SETTINGS.iter().map(|setting| setting.key).find(|known| known.rsplit('.').next() == Some(name))
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

/// What only shows when all values are known.
fn check_together(loaded: &mut Loaded, mistakes: &mut Vec<String>) {
    let config = &mut loaded.config;
    if config.outlast.backoff > config.outlast.backoff_max {
        mistakes.push("delivery.backoff is longer than delivery.backoff_max".to_owned());
    }
    if let Err(why) = tracing_subscriber::EnvFilter::try_new(&config.log.level) {
        mistakes.push(format!("log.level: \"{}\" is not understood: {why}", config.log.level));
    }
    if config.server.tls_certificate.is_some() != config.server.tls_key.is_some() {
        mistakes
            .push("server.tls_certificate and server.tls_key: one is set and the other is not".to_owned());
    }
    let mut names: Vec<&str> = config.server.tokens.iter().map(|token| token.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        mistakes.push("server.tokens: two tokens have the same name".to_owned());
    }
    read_keys(config, mistakes);
    if let Some(path) = &config.database.password_file {
        if config.database.password.is_some() {
            mistakes.push("database.password and database.password_file are both set: keep one".to_owned());
        }
        match std::fs::read_to_string(path) {
            Ok(text) => config.database.password = Some(Secret::new(text.trim_end())),
            Err(error) => mistakes.push(format!("database.password_file {}: {error}", path.display())),
        }
    }
}

/// The keys of the queue, from where they were said to be.
fn read_keys(config: &mut Config, mistakes: &mut Vec<String>) {
    let EncryptionConfig { keys, key_file, encrypt } = &config.encryption;
    let found = match (keys, key_file) {
        (Some(_), Some(_)) => {
            mistakes
                .push("queue.encryption_key and queue.encryption_key_file are both set: keep one".to_owned());
            return;
        }
        (None, None) => return,
        (Some(keys), None) => {
            keys::parse(keys.expose().split(',')).map_err(|why| format!("queue.encryption_key: {why}"))
        }
        (None, Some(path)) => keys::read(path).map_err(|why| format!("queue.encryption_key_file {why}")),
    };
    match found {
        Ok(keys) => config.outlast.encryption = Encryption { keys, only_decrypt: !encrypt },
        Err(why) => mistakes.push(why),
    }
}

/// Why an address may not be listened on with this configuration, if so.
pub fn refuse_open_door(config: &Config) -> Option<String> {
    if config.server.listen.ip().is_loopback()
        || !config.server.tokens.is_empty()
        || config.server.insecure_listen
    {
        return None;
    }
    Some(format!(
        "server.listen is {}, which others can reach, and no tokens are configured: add [[server.tokens]], listen on \
         127.0.0.1, or set server.insecure_listen = true if everybody who reaches it may do everything",
        config.server.listen
    ))
}
