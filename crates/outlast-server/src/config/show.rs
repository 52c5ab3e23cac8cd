//! `config show`, `config init` and the page of documentation: three views of the table of settings.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::load::Loaded;
use super::settings::{Config, SECTIONS, SETTINGS, Setting, find, variable};
use super::suggest::nearest;
use super::value::{HIDDEN, Slot};

/// Each setting with its value and where that came from, one a line. Secrets are hidden.
pub fn as_text(loaded: &Loaded) -> String {
    let mut config = loaded.config.clone();
    let rows: Vec<(String, String)> = SETTINGS
        .iter()
        .map(|setting| (line(setting, &mut config), loaded.source(setting.key).to_string()))
        .collect();
    let width = rows.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(70);
    rows.iter().fold(String::new(), |mut text, (line, source)| {
        let _ = writeln!(text, "{line:width$}  # {source}");
        text
    })
}

/// The same as a JSON object: `{"server.listen": {"value": .., "source": ..}}`.
pub fn as_json(loaded: &Loaded) -> Value {
    let mut config = loaded.config.clone();
    let members = SETTINGS.iter().map(|setting| {
        let slot = (setting.slot)(&mut config);
        let shown = slot.show();
        let value =
            if slot.quoted() { json!(shown) } else { serde_json::from_str(&shown).unwrap_or(Value::Null) };
        let source = loaded.source(setting.key).to_string();
        (setting.key.to_owned(), json!({ "value": value, "source": source }))
    });
    Value::Object(members.collect::<Map<_, _>>())
}

/// What one setting means, for a person and for a program.
pub struct Explanation {
    /// In words.
    pub text: String,
    /// As a JSON object.
    pub json: Value,
}

/// Explains a setting: its meaning, what it takes, its default, and where its value came from. Without `loaded` (the
/// configuration is wrong) the present value is left out.
///
/// # Errors
/// A sentence with the nearest name, when there is no such setting.
pub fn explain(key: &str, loaded: Option<&Loaded>) -> Result<Explanation, String> {
    let Some(setting) = find(key) else {
        let near = nearest(key, SETTINGS.iter().map(|setting| setting.key)).map_or_else(
            || "; `outlast config show` lists all".to_owned(),
            |near| format!("; did you mean {near}?"),
        );
        return Err(format!("unknown setting {key}{near}"));
    };
    let mut default = Config::default();
    let slot = (setting.slot)(&mut default);
    let (kind, default, variable) = (slot.kind(), slot.show(), variable(key));
    let mut text = String::new();
    for row in wrapped(setting.help, 100) {
        let _ = writeln!(text, "{row}");
    }
    let _ = writeln!(text, "\nTakes:    {}\nDefault:  {default}", kind.replace('`', ""));
    let mut json =
        json!({ "key": key, "help": setting.help, "takes": kind, "default": default, "variable": variable });
    if let Some(loaded) = loaded {
        let mut config = loaded.config.clone();
        let (now, source) = ((setting.slot)(&mut config).show(), loaded.source(key).to_string());
        let _ = writeln!(text, "Now:      {now}, from: {source}");
        json["value"] = json!(now);
        json["source"] = json!(source);
    }
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let _ = writeln!(text, "Set by:   {name} in [{section}] of the file, {variable}, or --set {key}=VALUE");
    Ok(Explanation { text, json })
}

fn line(setting: &Setting, config: &mut Config) -> String {
    format!("{} = {}", setting.key, written(&(setting.slot)(config)))
}

fn written(slot: &Slot<'_>) -> String {
    let shown = slot.show();
    if slot.quoted() { Value::String(shown).to_string() } else { shown }
}

/// A commented `outlast.toml`: every setting with its default, none of them set.
pub fn sample() -> String {
    let mut text = String::from(
        "# Outlast's configuration. Every line that begins with #KEY shows a default: remove the # to change it.\n\
         # A variable OUTLAST_SECTION__KEY overrides a value of this file, a flag overrides both.\n\
         # `outlast config show` prints every value and where it came from.\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(text, "\n# {about}\n[{section}]\n");
        for setting in in_section(section) {
            text.push('\n');
            for row in wrapped(setting.help, 100) {
                let _ = writeln!(text, "# {row}");
            }
            let mut config = Config::default();
            let slot = (setting.slot)(&mut config);
            let name = setting.key.split_once('.').map_or(setting.key, |(_, name)| name);
            match slot {
                Slot::Tokens(_) => text.push_str(
                    "#[[server.tokens]]\n#name = \"me\"\n#role = \"operator\"\n\
                     #sha256 = \"...\" # printf %s \"$TOKEN\" | sha256sum\n#expires = \"2027-01-31\"\n",
                ),
                slot => {
                    let _ = writeln!(text, "#{name} = {}", written(&slot));
                }
            }
        }
    }
    text
}

/// The page `docs/configuration.md`.
pub fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    for (section, about) in SECTIONS {
        let _ = write!(
            text,
            "\n## `[{section}]`\n\n{about}\n\n| setting | value | default | |\n|---|---|---|---|\n"
        );
        for setting in in_section(section) {
            let mut config = Config::default();
            let slot = (setting.slot)(&mut config);
            let kind = slot.kind().replace('|', "\\|");
            let help = setting.help.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {kind} | `{}` | {help} |", setting.key, slot.show());
        }
    }
    let _ = write!(text, "\n{}", closing());
    text
}

const INTRODUCTION: &str = "# Configuration

<!-- Generated from the table of settings in crates/outlast-server/src/config/settings.rs:
     OUTLAST_WRITE_DOCS=1 cargo test -p outlast-server --test config -->

Every setting has a default, so an empty configuration runs. A value comes from the first of these that has it:

1. a flag: `--listen`, `--queue-directory`, `--database-url`, or `--set section.key=value` for any setting;
2. an environment variable `OUTLAST_SECTION__KEY`, for example `OUTLAST_QUEUE__MAX_WRITES=5000000`;
3. the file: the one that `--config` or `OUTLAST_CONFIG` names, otherwise `outlast.toml` in the working directory if
   there is one;
4. the default.

`outlast config show` prints every value with its source, `outlast config init` writes a commented `outlast.toml`.
`outlast config explain KEY` tells what a setting means and who set it, `outlast config check` tries what a start would
refuse.
A name that is not a setting is an error with its place and a suggestion, never ignored. Every mistake is reported at
once, and the process ends with code 78.

- **Durations** are a whole number and a unit: `ms`, `s`, `min` (or `m`), `h`, `d`. For example `200ms`, `30s`, `15min`.
- **Sizes** are a whole number and a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`, or `kB`, `MB`, `GB`, `TB`.
- **Numbers** may hold underscores: `1_000_000`.
- **`none`** switches off what can be switched off.
";

fn closing() -> String {
    format!(
        "## Secrets\n\n`database.password`, the password inside `database.url`, the hashes of tokens and webhooks but for their host are never shown: \
         `config show` prints `{HIDDEN}`, and log lines, metrics and answers do not contain them. `{}` and \
         `database.password_file` keep the password out of the file.\n\n\
         ## Tokens\n\n```toml\n[[server.tokens]]\nname = \"checkout service\"\nrole = \"writer\"   # reader, writer or \
         operator\nsha256 = \"...\"      # printf %s \"$TOKEN\" | sha256sum\n```\n\n\
         A client sends `Authorization: Bearer TOKEN`. Without any token configured everybody who reaches the address may \
         do everything, so the server then refuses to listen beyond this machine unless `server.insecure_listen` is \
         `true`. Choose tokens with at least 128 bits of chance (`openssl rand -hex 32`): they are hashed once, not \
         stretched.\n\n\
         ## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | done |\n| 1 | not done: the message says why; `outlast \
         status` also when no writes are accepted |\n| 2 | the command line is wrong |\n| 3 | `log \
         verify`: the end of the log is torn, as a crash leaves it |\n| 65 | `log verify` found damage, or a file to \
         import is malformed |\n| 69 | the server could not be reached |\n| 75 | another process has the queue directory |\n| 78 | the configuration is wrong |\n",
        variable("database.password")
    )
}

fn in_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    let prefix = format!("{section}.");
    SETTINGS.iter().filter(move |setting| setting.key.starts_with(&prefix))
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split(' ') {
        let last = rows.len() - 1;
        if !rows[last].is_empty() && rows[last].len() + 1 + word.len() > width {
            rows.push(word.to_owned());
        } else {
            if !rows[last].is_empty() {
                rows[last].push(' ');
            }
            rows[last].push_str(word);
        }
    }
    rows
}
