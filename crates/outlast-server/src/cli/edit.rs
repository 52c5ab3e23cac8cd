//! `outlast dead edit`: a dead letter with another content, from a file or out of an editor.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::Exit;
use super::ask::confirm;
use super::client::Client;
use super::dead::{done, letter, reason};
use super::output::{Failure, safe};
use crate::http::segment;

/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 2;
/// Longer lines are cut where they are shown.
const SHOWN_MAX: usize = 200;

pub(super) async fn run(client: &Client, id: &str, file: Option<&Path>, yes: bool) -> Result<(), Failure> {
    // As it is: what is hidden would otherwise be sent as it is shown.
    let letter = letter(client, id, &[("redact", "false".to_owned())]).await?;
    match file {
        Some(file) => {
            let operations = read(&given(file)?).map_err(Failure::failed)?;
            match retry(client, id, &letter, &operations, yes).await? {
                Ok(receipt) => done(client, "edited and queued again", &receipt),
                Err(why) => return Err(Failure::failed(why)),
            }
        }
        None => by_hand(client, id, &letter, yes).await?,
    }
    Ok(())
}

fn given(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| Failure::failed(format!("{} cannot be read: {error}", file.display())))?;
    Ok(text)
}

/// Opens an editor until what it leaves is taken, or nothing was changed any more.
async fn by_hand(client: &Client, id: &str, letter: &Value, yes: bool) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let message = "there is no terminal for an editor: give the operations with --file FILE, or --file - and standard input";
        return Err(Failure::new(Exit::Usage, message));
    }
    let file = tempfile::Builder::new().prefix("outlast-").suffix(".json").tempfile();
    let file = file.map_err(|error| Failure::failed(format!("no file for the editor: {error}")))?;
    let mut text = pretty(&letter["operations"]);
    let mut why = None;
    loop {
        let edited = in_editor(file.path(), &head(id, letter, why.as_deref()), &text)?;
        if edited.trim().is_empty() || edited.trim() == text.trim() {
            return Err(Failure::failed("nothing was changed: nothing was done"));
        }
        let answer = match read(&edited) {
            Ok(operations) => retry(client, id, letter, &operations, yes).await,
            Err(why) => Ok(Err(why)),
        };
        match answer {
            Ok(Ok(receipt)) => {
                done(client, "edited and queued again", &receipt);
                return Ok(());
            }
            Ok(Err(refused)) => why = Some(refused),
            Err(failure) => {
                // Nobody should have to write it twice.
                let kept = file.keep().map(|(_, path)| format!("\nyour edit is in {}", path.display()));
                let message = format!("{}{}", failure.message, kept.unwrap_or_default());
                return Err(Failure::new(failure.exit, message));
            }
        }
        text = edited;
    }
}

/// What stands above the operations in the editor.
fn head(id: &str, letter: &Value, why: Option<&str>) -> String {
    let mut head = format!(
        "# Dead letter {}, refused: {}\n\
         # Change the operations below, then save and leave the editor: the write is queued again with them, under its\n\
         # id. It keeps its records. Lines like this one are left out; if nothing is changed, nothing is done.\n",
        safe(id, 60),
        reason(letter)
    );
    for line in why.into_iter().flat_map(str::lines) {
        let _ = writeln!(head, "#\n# NOT TAKEN: {}", safe(line, SHOWN_MAX));
    }
    head
}

/// What the editor leaves, without the lines above.
fn in_editor(file: &Path, head: &str, text: &str) -> Result<String, Failure> {
    let failed = |what: &str| Failure::failed(format!("{what}; nothing was done"));
    std::fs::write(file, format!("{head}{text}\n"))
        .map_err(|error| failed(&format!("no file for the editor: {error}")))?;
    let chosen = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = chosen.filter(|editor| !editor.trim().is_empty()).unwrap_or_else(|| "vi".to_owned());
    // The variable holds a command line, as for every program that looks at it.
    let ended = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file).status();
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(failed(&format!("the editor {editor} ended with {status}"))),
        Err(error) => return Err(failed(&format!("the editor {editor} could not be started: {error}"))),
    }
    let left = std::fs::read_to_string(file)
        .map_err(|error| failed(&format!("what the editor left cannot be read: {error}")))?;
    let lines = left.lines().skip_while(|line| line.starts_with('#'));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The operations: a list, or an object that has it as its member, as `dead show` prints it.
fn read(text: &str) -> Result<Value, String> {
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| format!("the operations are not valid JSON: {error}"))?;
    if value.is_object() {
        value = value["operations"].take();
    }
    if value.is_array() {
        Ok(value)
    } else {
        Err("give a list of operations, or an object with the member \"operations\", as `dead show` prints it"
            .to_owned())
    }
}

/// Shows what is changed, asks, and does it. The inner error is what the server says of operations that it does not take.
async fn retry(
    client: &Client,
    id: &str,
    letter: &Value,
    operations: &Value,
    yes: bool,
) -> Result<Result<Value, String>, Failure> {
    if *operations == letter["operations"] {
        let message = format!("nothing is changed: to queue it again as it is, outlast dead retry {id}");
        return Err(Failure::failed(message));
    }
    let changes = changes(&pretty(&letter["operations"]), &pretty(operations));
    if yes {
        eprint!("{changes}");
    }
    confirm(&format!("queue {} again with this change:\n{changes}", safe(id, 60)), yes)?;
    let body = json!({ "operations": operations }).to_string();
    let path = format!("/v1/dead-letters/{}/edit", segment(id));
    let answer = client.send(Method::POST, &path, &[], &[], Some(body)).await?;
    if matches!(answer.status.as_u16(), 400 | 413) {
        return Ok(Err(answer.success().err().map_or_else(String::new, |failure| failure.message)));
    }
    answer.success()?.json().map(Ok)
}

fn pretty(operations: &Value) -> String {
    serde_json::to_string_pretty(operations).unwrap_or_default()
}

/// Line by line, as `diff -u` shows it.
fn changes(before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut text = String::new();
    for (place, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if place > 0 {
            text.push_str("  ...\n");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let _ = writeln!(text, "{sign} {}", safe(change.value().trim_end(), SHOWN_MAX));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_shown_line_by_line() {
        let before = json!([{ "op": "create", "collection": "a", "id": "1", "data": { "n": 1, "z": 2 } }]);
        let mut after = before.clone();
        after[0]["op"] = json!("put");
        let shown = changes(&pretty(&before), &pretty(&after));
        assert!(shown.contains("-     \"op\": \"create\"\n+     \"op\": \"put\"\n"), "{shown}");
        assert!(!shown.contains("\"n\""), "what is far from the change is left out: {shown}");
        let huge = format!("[\"{}\u{1b}[2J\"]", "x".repeat(1000));
        assert!(changes("[]", &huge).lines().all(|line| line.chars().count() < SHOWN_MAX + 3));
        assert!(!changes("[]", "[\"\u{9b}2J\"]").contains('\u{9b}'), "nothing that a terminal obeys");
    }

    #[test]
    fn operations_are_taken_as_a_list_or_as_they_are_shown() {
        let list = r#"[{"n":18446744073709551616,"op":"delete"}]"#;
        assert_eq!(read(list).unwrap().to_string(), list);
        assert_eq!(read(&format!("{{\"id\":\"1-1\",\"operations\":{list}}}")).unwrap().to_string(), list);
        for wrong in ["", "{", "{}", "1"] {
            read(wrong).unwrap_err();
        }
    }
}
