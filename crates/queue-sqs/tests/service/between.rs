//! A way to the service that can do what no stand-in for SQS does: fail at a part of a batch, throttle, lose an answer,
//! deliver twice.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use robata_queue_sqs::SqsConfig;
use serde_json::{Value, json};

/// What happens to a request, instead of its being passed on.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// The service's error, and nothing is done.
    Refused(u16, &'static str),
    /// These entries fail, whose fault it is ours or not; the others are done.
    InPart { ids: Vec<usize>, ours: bool },
    /// It is done, and the answer lost.
    Lost,
    /// Nobody answers.
    Silence,
    /// What was last received is received once more.
    Again,
}

#[derive(Debug)]
struct Rule {
    action: &'static str,
    /// How often still.
    times: usize,
    fate: Fate,
}

#[derive(Debug)]
struct Way {
    service: String,
    http: reqwest::Client,
    rules: Mutex<VecDeque<Rule>>,
    /// Actions that came, with the number of their entries.
    seen: Mutex<Vec<(String, usize)>>,
    received: Mutex<Value>,
}

/// The way.
#[derive(Debug)]
pub(crate) struct Between {
    state: Arc<Way>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody fails with it")
}

impl Between {
    /// A way to the service of `config`, and the same options by that way.
    pub(crate) async fn to(config: &SqsConfig) -> Result<(Self, SqsConfig)> {
        let state = Arc::new(Way {
            service: config.endpoint.clone().context("an endpoint")?,
            http: robata_testkit::http().build()?,
            rules: Mutex::default(),
            seen: Mutex::default(),
            received: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(pass).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let by_this = SqsConfig {
            endpoint: Some(endpoint),
            ..config.clone()
        };
        Ok((Self { state }, by_this))
    }

    /// The next so many requests of this action have this fate.
    pub(crate) fn will(&self, action: &'static str, times: usize, fate: Fate) {
        locked(&self.state.rules).push_back(Rule { action, times, fate });
    }

    /// All is well again.
    pub(crate) fn be_well(&self) {
        locked(&self.state.rules).clear();
    }

    /// How many entries each request of this action had.
    pub(crate) fn entries(&self, action: &str) -> Vec<usize> {
        let seen = locked(&self.state.seen);
        let of_it = seen.iter().filter(|(seen, _)| seen == action);
        of_it.map(|(_, entries)| *entries).collect()
    }
}

/// What an action means, once.
fn fate(state: &Way, action: &str) -> Option<Fate> {
    let mut rules = locked(&state.rules);
    let rule = rules.iter_mut().find(|rule| rule.action == action && rule.times > 0)?;
    rule.times -= 1;
    Some(rule.fate.clone())
}

async fn pass(State(state): State<Arc<Way>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target
        .and_then(|target| target.split('.').next_back())
        .unwrap_or_default()
        .to_owned();
    let mut input: Value = serde_json::from_slice(&body).unwrap_or_default();
    let entries = input["Entries"].as_array().map_or(0, Vec::len);
    locked(&state.seen).push((action.clone(), entries));
    let failed = match fate(&state, &action) {
        Some(Fate::Refused(status, code)) => return refusal(status, code),
        Some(Fate::Silence) => std::future::pending().await,
        Some(Fate::Again) => {
            let received = locked(&state.received).clone();
            return json_answer(200, &received);
        }
        Some(Fate::Lost) => {
            drop(forward(&state, &headers, &input).await);
            let cut = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
            return Response::new(Body::from_stream(cut));
        }
        Some(Fate::InPart { ids, ours }) => take_out(&mut input, &ids, ours),
        None => Vec::new(),
    };
    let nothing_left = !failed.is_empty() && input["Entries"].as_array().is_some_and(Vec::is_empty);
    let forwarded = if nothing_left {
        Ok((200, json!({"Successful": []})))
    } else {
        forward(&state, &headers, &input).await
    };
    match forwarded {
        Ok((status, mut answer)) => {
            if !failed.is_empty() {
                answer["Failed"] = failed.into();
            }
            if action == "ReceiveMessage" && answer["Messages"].is_array() {
                *locked(&state.received) = answer.clone();
            }
            json_answer(status, &answer)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// Takes entries out of a batch; answers how the service tells of their failure.
fn take_out(input: &mut Value, ids: &[usize], ours: bool) -> Vec<Value> {
    let mut failed = Vec::new();
    if let Some(entries) = input["Entries"].as_array_mut() {
        entries.retain(|entry| {
            let id = entry["Id"].as_str().and_then(|id| id.parse().ok());
            let fails = id.is_some_and(|id: usize| ids.contains(&id));
            if fails {
                let code = if ours {
                    "InvalidMessageContents"
                } else {
                    "InternalError"
                };
                failed.push(json!({"Id": entry["Id"], "SenderFault": ours, "Code": code, "Message": "as told"}));
            }
            !fails
        });
    }
    failed
}

async fn forward(state: &Way, headers: &HeaderMap, input: &Value) -> Result<(u16, Value)> {
    let mut request = state.http.post(&state.service).body(input.to_string());
    for (name, value) in headers {
        if !["host", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            request = request.header(name.as_str(), value.as_bytes());
        }
    }
    let answer = request.send().await?;
    let (status, text) = (answer.status().as_u16(), answer.text().await?);
    Ok((
        status,
        if text.is_empty() {
            json!({})
        } else {
            serde_json::from_str(&text)?
        },
    ))
}

fn refusal(status: u16, code: &str) -> Response {
    json_answer(
        status,
        &json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": "as told"}),
    )
}

fn json_answer(status: u16, answer: &Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let kind = [("content-type", "application/x-amz-json-1.0")];
    (status, kind, answer.to_string()).into_response()
}
