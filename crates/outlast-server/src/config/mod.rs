//! Configuration: `outlast.toml`, environment and flags, read through one table of settings.

mod alerts;
mod file;
mod keys;
mod load;
mod settings;
mod show;
mod suggest;
mod token;
pub mod units;
mod value;

pub use alerts::{AlertKind, Webhook};
pub use load::{ConfigError, DEFAULT_FILE, Inputs, Loaded, Source, load, refuse_open_door};
pub use settings::{
    AlertsConfig, Config, DatabaseConfig, EncryptionConfig, LogConfig, ServerConfig, Setting, TracesConfig,
    find, variable,
};
pub use show::{Explanation, as_json, as_text, explain, page, sample};
pub use token::{Life, Role, Token};
pub use value::{LogFormat, Readiness, Secret, hide_password};
