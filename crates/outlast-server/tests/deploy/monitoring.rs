//! Alert rules and dashboard name only series that `/metrics` has, and Prometheus' own tool accepts both.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use outlast_testkit::process::Setup;
use serde_json::Value;

use crate::support::{JSON, send};
use crate::{installed, path, read, succeeded};

const RULES: &str = "deploy/prometheus/outlast.rules.yml";
const RULE_TESTS: &str = "deploy/prometheus/outlast.test.yml";
const DASHBOARD: &str = "deploy/grafana/outlast.json";

/// What a real server shows after a few writes.
async fn metrics() -> String {
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}/database.db", directory.path().display());
    let process = Setup::new(env!("CARGO_BIN_EXE_outlast"), directory.path(), &database).start();
    let address = process.url().trim_start_matches("http://").parse().unwrap();
    for (method, record) in [("PUT", "a"), ("PATCH", "a"), ("POST", "b"), ("DELETE", "b")] {
        let body = if method == "DELETE" { "" } else { "{\"a\":1}" };
        let reply = send(address, method, &format!("/v1/records/things/{record}"), &[JSON], body).await;
        assert!((200..300).contains(&reply.status), "{method}: {reply:?}");
    }
    let reply = send(address, "GET", "/metrics", &[], "").await;
    assert_eq!(reply.status, 200);
    reply.body
}

/// Every `outlast_…` in an expression, with the labels that must have a certain value: `(name, [label="value"])`.
fn series_of(text: &str) -> BTreeSet<(String, Vec<String>)> {
    let is_word = |byte: char| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == '_';
    let mut found = BTreeSet::new();
    for (start, _) in text.match_indices("outlast_") {
        let rest = &text[start..];
        let name = &rest[..rest.find(|byte| !is_word(byte)).unwrap_or(rest.len())];
        let selector = rest[name.len()..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = selector.map_or("", |(labels, _)| labels).split(", ");
        // Only what is compared with one value, and is no label of Prometheus' own.
        let fixed = labels.filter(|label| {
            label.contains("=\"")
                && !label.contains("!=")
                && !label.starts_with("job")
                && !label.starts_with("instance")
        });
        found.insert((name.to_owned(), fixed.map(str::to_owned).collect()));
    }
    found
}

fn assert_all_exist(what: &str, named: &BTreeSet<(String, Vec<String>)>, metrics: &str) {
    for (name, labels) in named {
        let exists = metrics.lines().any(|line| {
            let rest = line.strip_prefix(name.as_str());
            rest.is_some_and(|rest| {
                rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label.as_str()))
            })
        });
        assert!(exists, "{what} names {name} {labels:?}, which /metrics does not have");
    }
}

/// The expressions of a dashboard's panels and annotations, and the queries of its variables.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "definition" => found.push(text.clone()),
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_dashboard_name_only_series_that_exist() {
    let metrics = metrics().await;
    let rules = series_of(&read(RULES));
    assert!(rules.len() > 15, "{rules:?}");
    assert!(rules.contains(&("outlast_log_state".into(), vec!["state=\"failed\"".into()])), "{rules:?}");
    assert_all_exist(RULES, &rules, &metrics);
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&read(DASHBOARD)).unwrap(), &mut found);
    let named = found.iter().flat_map(|expression| series_of(expression)).collect::<BTreeSet<_>>();
    assert!(found.len() > 25 && named.len() > 20, "{found:?}");
    assert_all_exist(DASHBOARD, &named, &metrics);
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do_and_has_tests_both_ways() {
    let (rules, tests) = (read(RULES), read(RULE_TESTS));
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        for part in ["severity: ", "summary: ", "description: ", "action: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        let firing = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&format!("exp_samples: [{{ labels: '{firing}")), "{name} is not seen to fire");
        let silent =
            tests.split("- expr: ").any(|test| test.starts_with(&firing) && test.contains("exp_samples: []"));
        assert!(silent, "{name} is not seen to be silent");
        alerts += 1;
    }
    assert_eq!(alerts, 18);
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another panel");
        if panel["type"] == "row" {
            continue;
        }
        // Grafana puts in what somebody chose; a name of ours would exist nowhere else.
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        assert!(panel["targets"].as_array().unwrap().iter().all(|target| target["expr"] != ""), "{title}");
    }
    assert!(ids.len() > 20);
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let Some(mut promtool) = installed("promtool", "prometheus") else { return };
    succeeded(RULES, &promtool.args(["check", "rules"]).arg(path(RULES)).output().unwrap());
    let Some(mut promtool) = installed("promtool", "prometheus") else { return };
    succeeded(RULE_TESTS, &promtool.args(["test", "rules"]).arg(path(RULE_TESTS)).output().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_has_nothing_to_say_about_the_metrics() {
    let Some(mut promtool) = installed("promtool", "prometheus") else { return };
    let metrics = metrics().await;
    let command = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let said = succeeded("/metrics", &child.wait_with_output().unwrap());
    assert_eq!(said, "", "promtool complains");
}
