//! The HTTP interface of a server under test, as a client sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlast::outage::Outage;
use outlast::status::Status;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};

use super::until;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The name of the problem: `queue-full`, for example. Empty when it is none.
    pub fn problem(&self) -> String {
        if self.header("content-type") != "application/problem+json" {
            return String::new();
        }
        let body = self.json();
        let kind = body["type"].as_str().unwrap_or_default();
        kind.strip_prefix("/problems/").unwrap_or_default().to_owned()
    }

    /// `Retry-After` in seconds, which must be there and between 1 and 60.
    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        let seconds =
            self.header("retry-after").parse().unwrap_or_else(|_| panic!("no Retry-After: {self:?}"));
        assert!((1..=60).contains(&seconds), "Retry-After: {seconds}");
        seconds
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// No connection was made: the server knows nothing of the request.
    NotSent,
    /// The connection was lost after sending began.
    Unknown,
}

/// A server under test.
#[derive(Debug)]
pub struct Api {
    url: String,
    client: reqwest::Client,
    /// Writes that were told *applied*.
    pub applied: AtomicU64,
    /// Writes that were told *queued*.
    pub queued: AtomicU64,
}

impl Api {
    pub fn new(url: String) -> Self {
        Self::with_headers(url, HeaderMap::new())
    }

    /// With a token for every request.
    pub fn bearing(url: String, token: &str) -> Self {
        let bearer = format!("Bearer {token}").parse().unwrap();
        Self::with_headers(url, HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
    }

    fn with_headers(url: String, headers: HeaderMap) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .retry(reqwest::retry::never())
            .timeout(Duration::from_mins(2))
            .build()
            .unwrap();
        Self { url, client, applied: AtomicU64::new(0), queued: AtomicU64::new(0) }
    }

    /// Sends a request once.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        prefer: Option<&str>,
    ) -> Result<Reply, NoAnswer> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(prefer) = prefer {
            request = request.header("Prefer", prefer);
        }
        let lost =
            |error: reqwest::Error| if error.is_connect() { NoAnswer::NotSent } else { NoAnswer::Unknown };
        let response = request.send().await.map_err(lost)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let reply = Reply { status, headers, text: response.text().await.map_err(|_| NoAnswer::Unknown)? };
        match reply.header("write-status") {
            "applied" => self.applied.fetch_add(1, Ordering::SeqCst),
            "queued" => self.queued.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Ok(reply)
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, None).await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, Some(body), None)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, Some(body), None)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// A write that need not wait: 202.
    pub async fn put_async(&self, path: &str, body: &Value) -> Reply {
        let reply = self.send(Method::PUT, path, Some(body), Some("respond-async")).await;
        reply.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// A statement that writes to one record of `counters`.
    pub fn statement(text: &str, id: &str, note: &str) -> Value {
        json!({ "operations": [{
            "op": "statement",
            "statement": text,
            "parameters": { "id": id, "note": note },
            "touches": [{ "collection": "counters", "id": id }],
        }] })
    }

    pub async fn status(&self) -> Status {
        let reply = self.get("/v1/queue").await;
        serde_json::from_str(&reply.text).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
    }

    /// Waits until the status is as wished.
    pub async fn until(&self, what: &str, wished: impl Fn(&Status) -> bool) -> Status {
        until(what, async || Some(self.status().await).filter(&wished)).await
    }

    /// Makes the collections, so that statements find them.
    pub async fn collections(&self) {
        self.applies().await;
        for path in ["/v1/records/counters/first", "/v1/records/documents/first"] {
            assert_eq!(self.put(path, &json!({})).await.status, 200);
            assert_eq!(self.send(Method::DELETE, path, None, None).await.unwrap().status, 204);
        }
    }

    /// Waits until the database is connected and writes are applied at once.
    pub async fn applies(&self) {
        until("a write is applied at once", async || {
            let reply = self.send(Method::DELETE, "/v1/records/documents/nobody", None, None).await;
            (reply.ok()?.status == 204).then_some(())
        })
        .await;
    }

    /// Waits until the backlog has drained by itself, and checks the accounting identity.
    pub async fn drained(&self) -> Status {
        let nothing = |status: &Status| status.accounting.pending == 0 && status.accounting.parked == 0;
        let status =
            self.until("nothing waits", |status| status.database.is_connected() && nothing(status)).await;
        assert!(status.accounting_holds && status.accounting.holds(), "{:?}", status.accounting);
        assert_eq!((status.queue.writes, status.queue.bytes), (0, 0), "{:?}", status.queue);
        status
    }

    pub async fn outages(&self) -> Vec<Outage> {
        let reply = self.get("/v1/outages").await;
        serde_json::from_value(reply.json()["outages"].clone())
            .unwrap_or_else(|error| panic!("{error}: {reply:?}"))
    }

    /// The value of a series: `outlast_apply_attempts_total{result="unknown"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        self.metrics([series]).await[0]
    }

    /// The values of several series at one moment.
    pub async fn metrics<const N: usize>(&self, series: [&str; N]) -> [f64; N] {
        let text = self.get("/metrics").await.text;
        series.map(|series| {
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            let value = value.unwrap_or_else(|| panic!("no series {series} in:\n{text}"));
            value.parse().unwrap_or_else(|error| panic!("{series}: {value}: {error}"))
        })
    }
}
