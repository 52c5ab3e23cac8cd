//! Configuration: nothing unknown goes unnoticed, the nearest source wins, secrets stay hidden.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::time::Duration;

use outlast_server::config::{self, ConfigError, Inputs, Loaded, Readiness, Role, Source};

struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("outlast.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("outlast.toml")
    }
}

fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let file = File::new(text);
    config::load(&Inputs {
        file: Some(file.path()),
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        flags: flags
            .iter()
            .map(|(key, value)| (format!("--set {key}"), (*key).into(), (*value).into()))
            .collect(),
    })
}

fn mistake(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(text, environment, flags).unwrap_err().to_string()
}

#[test]
fn an_empty_configuration_has_the_defaults_of_the_design() {
    let loaded = load("", &[], &[]).unwrap();
    let shown = config::as_json(&loaded);
    for (key, value) in [
        ("server.listen", "127.0.0.1:6885"),
        ("database.url", "sqlite://outlast-data/database.db"),
        ("queue.directory", "outlast-data/queue"),
        ("server.wait", "10s"),
        ("queue.max_bytes", "1GiB"),
        ("queue.format", "json"),
        ("queue.sync_interval", "200ms"),
        ("queue.retain", "15min"),
        ("queue.retain_bytes", "256MiB"),
        ("queue.max_age", "none"),
        ("health.unavailable_timeout", "30s"),
        ("health.retry_after_max", "1min"),
        ("health.probe_interval", "10s"),
        ("delivery.backoff", "1s"),
        ("delivery.backoff_max", "1min"),
    ] {
        assert_eq!(shown[key]["value"], value, "{key}");
        assert_eq!(shown[key]["source"], "default", "{key}");
    }
    assert_eq!(shown["queue.max_writes"]["value"], 1_000_000);
    assert_eq!(shown["delivery.max_attempts"]["value"], 3);
    assert_eq!(shown["delivery.batch_max"]["value"], 500);
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let text = "[queue]\nmax_writes = 1\nmax_bytes = \"1MiB\"\n\n[delivery]\nbatch_max = 7\n";
    let environment = [("OUTLAST_QUEUE__MAX_WRITES", "2"), ("OUTLAST_QUEUE__MAX_BYTES", "2MiB")];
    let loaded = load(text, &environment, &[("queue.max_writes", "3")]).unwrap();
    assert_eq!(loaded.config.outlast.max_writes, 3);
    assert_eq!(loaded.source("queue.max_writes"), &Source::Flag("--set queue.max_writes".into()));
    assert_eq!(loaded.config.outlast.max_bytes, 2 << 20);
    assert_eq!(loaded.source("queue.max_bytes"), &Source::Environment("OUTLAST_QUEUE__MAX_BYTES".into()));
    assert_eq!(loaded.config.outlast.batch_max, 7);
    assert!(loaded.source("delivery.batch_max").to_string().ends_with("outlast.toml:6"));
    assert_eq!(loaded.source("queue.retain"), &Source::Default);
}

#[test]
fn an_unknown_key_of_the_file_is_refused_with_its_line_and_a_suggestion() {
    let text = mistake("[server]\nlisten = \"127.0.0.1:1\"\n\n[queue]\nmax_wirtes = 5\n", &[], &[]);
    assert!(text.contains("outlast.toml:5: unknown setting queue.max_wirtes"), "{text}");
    assert!(text.contains("did you mean queue.max_writes?"), "{text}");
    let text = mistake("[server]\ndirectory = \"x\"\n", &[], &[]);
    assert!(text.contains("did you mean queue.directory?"), "{text}");
    let text = mistake("[colours]\nsky = { a = 1 }\n", &[], &[]);
    assert!(text.contains("outlast.toml:2: unknown setting colours.sky"), "{text}");
    let text = mistake("listen = \"127.0.0.1:1\"\n", &[], &[]);
    assert!(text.contains("outlast.toml:1: unknown setting listen; did you mean server.listen?"), "{text}");
}

#[test]
fn an_unknown_variable_or_flag_is_refused_with_a_suggestion() {
    let text = mistake("", &[("OUTLAST_SERVER__LISTN", "x")], &[]);
    assert!(
        text.contains("OUTLAST_SERVER__LISTN names no setting; did you mean OUTLAST_SERVER__LISTEN?"),
        "{text}"
    );
    let text = mistake("", &[("OUTLAST_DATABASE_URL", "postgres://db/shop")], &[]);
    assert!(text.contains("OUTLAST_DATABASE_URL names no setting: write OUTLAST_DATABASE__URL"), "{text}");
    let others = [
        ("OUTLAST_CONFIG", "x"),
        ("OUTLAST_TOKEN", "x"),
        ("OUTLAST_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "a__b"),
    ];
    assert!(load("", &others, &[]).is_ok());
    let text = mistake("", &[], &[("server.lissen", "x")]);
    assert!(text.contains("did you mean server.listen?"), "{text}");
}

#[test]
fn every_mistake_is_told_at_once_with_what_is_accepted() {
    let text = mistake(
        "[server]\nwait = \"10\"\nmax_body_bytes = 1024\nreadiness = \"always\"\nlisten = \"here\"\n\
         [queue]\nmax_writes = \"many\"\nmax_age = \"0s\"\n[delivery]\nmax_attempts = 0\n[server.x]\ny = 1\n",
        &[("OUTLAST_HEALTH__RETRY_AFTER_MAX", "2min")],
        &[],
    );
    for part in [
        "server.wait: \"10\" is not a duration",
        "for example 200ms, 30s or 15min",
        "server.max_body_bytes: \"1024\" is not a size",
        "server.readiness: \"always\" is not one of: queue, database",
        "server.listen: \"here\" is not an IP address and a port",
        "queue.max_writes: \"many\" is not a whole number",
        "queue.max_age: 0s is too small: at least 1s",
        "delivery.max_attempts: 0 is too small: at least 1",
        "health.retry_after_max: 2min is too large: at most 1min",
        "unknown setting server.x",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let text = mistake("[server]\nlisten = \n", &[], &[]);
    assert!(text.contains("outlast.toml:2:"), "{text}");
    let inputs = Inputs { file: Some("/nowhere/outlast.toml".into()), ..Inputs::default() };
    assert!(
        config::load(&inputs).unwrap_err().to_string().contains("/nowhere/outlast.toml could not be read")
    );
}

#[test]
fn values_with_units_and_choices_arrive() {
    let text = "[server]\nwait = \"1500ms\"\nmax_body_bytes = \"64KiB\"\nreadiness = \"database\"\nlisten = \"localhost:1\"\n\
                [queue]\nmax_writes = 5_000_000\nmax_age = \"2h\"\non_full = \"3s\"\nformat = \"bincode\"\n\
                [delivery]\ndrain_rate = 50\n";
    let config = load(text, &[("OUTLAST_DELIVERY__DRAIN_RATE", "none")], &[]).unwrap().config;
    assert_eq!(config.server.wait, Duration::from_millis(1500));
    assert_eq!(config.server.max_body_bytes, 65_536);
    assert_eq!(config.server.readiness, Readiness::Database);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:1");
    assert_eq!(config.outlast.max_writes, 5_000_000);
    assert_eq!(config.outlast.max_age, Some(Duration::from_hours(2)));
    assert_eq!(config.outlast.block_when_full, Duration::from_secs(3));
    assert_eq!(config.outlast.drain_rate, None);
}

#[test]
fn tokens_are_read_from_tables_and_from_text() {
    let hash = "0f".repeat(32);
    let text = format!(
        "[[server.tokens]]\nname = \"a\"\nrole = \"reader\"\nsha256 = \"{hash}\"\n\
         [[server.tokens]]\nname = \"b\"\nrole = \"operator\"\nsha256 = \"{hash}\"\n"
    );
    let tokens = load(&text, &[], &[]).unwrap().config.server.tokens;
    assert_eq!(tokens.iter().map(|token| token.role).collect::<Vec<_>>(), [Role::Reader, Role::Operator]);
    let text = mistake(&text.replace("\"reader\"", "\"admin\""), &[], &[]);
    assert!(text.contains("\"admin\" is not a role"), "{text}");
    let bad = format!("[[server.tokens]]\nname = \"a\"\nroll = \"reader\"\nsha256 = \"{hash}\"\n");
    assert!(mistake(&bad, &[], &[]).contains("unknown member \"roll\""));
    let twice = format!("a:reader:{hash},a:writer:{hash}");
    assert!(mistake("", &[("OUTLAST_SERVER__TOKENS", &twice)], &[]).contains("same name"));
}

#[test]
fn secrets_are_never_shown() {
    let hash = "ab".repeat(32);
    let tokens = format!("ci:writer:{hash}");
    let environment = [
        ("OUTLAST_DATABASE__URL", "surrealdb://root:canary-1@db:8000/n/d"),
        ("OUTLAST_DATABASE__PASSWORD", "canary-2"),
        ("OUTLAST_SERVER__TOKENS", tokens.as_str()),
    ];
    let loaded = load("", &environment, &[]).unwrap();
    let everything =
        format!("{}{}{:?}", config::as_text(&loaded), config::as_json(&loaded), loaded.config.server);
    for canary in ["canary-1", "canary-2", &hash] {
        assert!(!everything.contains(canary), "{canary} is shown");
    }
    assert!(everything.contains("surrealdb://root:hidden@db:8000/n/d"));
    assert!(everything.contains("ci (writer)"));
    let text = mistake("", &[("OUTLAST_DATABASE__URL", "canary-3")], &[]);
    assert!(!text.contains("canary-3") && text.contains("sqlite://"), "{text}");
}

#[test]
fn a_password_file_is_read_and_excludes_a_password() {
    let file = File::new("hush\n");
    let path = file.path().display().to_string();
    let loaded = load("", &[("OUTLAST_DATABASE__PASSWORD_FILE", &path)], &[]).unwrap();
    assert_eq!(loaded.config.database.password.unwrap().expose(), "hush");
    let both = [("OUTLAST_DATABASE__PASSWORD_FILE", path.as_str()), ("OUTLAST_DATABASE__PASSWORD", "x")];
    assert!(mistake("", &both, &[]).contains("keep one"));
}

#[test]
fn an_address_beyond_this_machine_needs_tokens_or_a_clear_word() {
    let open =
        |environment: &[(&str, &str)]| config::refuse_open_door(&load("", environment, &[]).unwrap().config);
    let listen = ("OUTLAST_SERVER__LISTEN", "0.0.0.0:6885");
    let token = format!("a:reader:{}", "ab".repeat(32));
    assert!(open(&[]).is_none());
    assert!(open(&[("OUTLAST_SERVER__LISTEN", "[::1]:6885")]).is_none());
    assert!(open(&[listen]).unwrap().contains("server.insecure_listen = true"));
    assert!(open(&[listen, ("OUTLAST_SERVER__INSECURE_LISTEN", "true")]).is_none());
    assert!(open(&[listen, ("OUTLAST_SERVER__TOKENS", &token)]).is_none());
}

#[test]
fn the_sample_with_every_comment_mark_removed_is_the_default_configuration() {
    let sample = config::sample();
    assert!(config::as_text(&load(&sample, &[], &[]).unwrap()).contains("server.wait"));
    let uncommented: String = sample
        .lines()
        .filter(|line| !line.contains("server.tokens") && !line.starts_with("#sha256"))
        .filter(|line| !line.starts_with("#expires ="))
        .filter(|line| !line.starts_with("#name =") && !line.starts_with("#role ="))
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let loaded = load(&uncommented, &[], &[]).unwrap();
    let (set, default) = (config::as_json(&loaded), config::as_json(&load("", &[], &[]).unwrap()));
    for (key, shown) in set.as_object().unwrap() {
        assert_eq!(shown["value"], default[key]["value"], "{key}");
        let from_file = shown["source"].as_str().unwrap().contains("outlast.toml");
        assert!(from_file || key == "server.tokens", "{key} is not in the sample");
    }
}

#[test]
fn the_page_of_documentation_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("OUTLAST_WRITE_DOCS").is_some() {
        std::fs::write(path, config::page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == config::page(),
        "docs/configuration.md is out of date: OUTLAST_WRITE_DOCS=1 cargo test -p outlast-server --test config"
    );
}
