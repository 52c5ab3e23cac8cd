//! `outlast audit`: who did what, and what came of it.

use serde_json::Value;

use super::client::Client;
use super::output::{Failure, print, print_json, safe, table};
use super::queue::text;

/// Prints what was noted, newest first.
pub(super) async fn run(client: &Client, limit: u16) -> Result<(), Failure> {
    let page = client.get("/v1/audit", &[("limit", limit.to_string())]).await?;
    if client.json {
        print_json(&page);
    } else {
        print(&list(&page));
    }
    Ok(())
}

fn list(page: &Value) -> String {
    let entries = page["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        return "nothing is noted yet".to_owned();
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let action = safe(entry["action"].as_str().unwrap_or_default(), 100);
            vec![text(entry, "who"), text(entry, "at"), action, result(entry)]
        })
        .collect();
    table(&["WHO", "WHEN", "ACTION", "RESULT"], &rows)
}

/// The status, if it is about an answer, and what was said beside it.
fn result(entry: &Value) -> String {
    let status = entry["status"].as_u64().map(|status| status.to_string());
    let detail = entry["detail"].as_str().map(|detail| safe(detail, 200));
    status.into_iter().chain(detail).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_noted_is_a_table_that_commands_no_terminal() {
        let page = json!({ "entries": [
            { "at": "2027-01-02T03:04:05.678Z", "who": "me\u{1b}[31m", "action": "run 3 ended", "detail": "done: 2 of 2 done, 0 failed" },
            { "at": "2027-01-02T03:04:04.000Z", "who": "local", "action": "POST /v1/queue/resume", "status": 409, "detail": "the\u{9b}1m lane" },
        ] });
        assert_eq!(
            list(&page),
            "WHO      WHEN                      ACTION                 RESULT\n\
             me [31m  2027-01-02T03:04:05.678Z  run 3 ended            done: 2 of 2 done, 0 failed\n\
             local    2027-01-02T03:04:04.000Z  POST /v1/queue/resume  409 the 1m lane\n"
        );
        assert_eq!(list(&json!({ "entries": [] })), "nothing is noted yet");
    }
}
