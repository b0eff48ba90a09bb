//! The JSON API under `/api/v1`. `openapi.json` describes it; a test holds the two together.
//!
//! Lists come in pages: `next` of one is `after` of the following one. A request makes shards look at
//! a bounded number of things, one question at a time, so a page may have fewer rows than asked for
//! and still have a `next`.

mod clients;
mod node;
mod stored;

use super::AdminState;
use super::server::fault;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

type Shared = Arc<AdminState>;

const OPENAPI: &str = include_str!("openapi.json");

/// Every route, with its methods: what the document must describe.
fn routes() -> [(&'static str, &'static [&'static str], MethodRouter<Shared>); 16] {
    [
        ("/api/v1/openapi.json", &["get"], get(openapi)),
        ("/api/v1/overview", &["get"], get(node::overview)),
        ("/api/v1/clients", &["get"], get(clients::list)),
        ("/api/v1/clients/{client_id}", &["get"], get(clients::one)),
        ("/api/v1/clients/{client_id}/connection", &["delete"], delete(clients::kick)),
        ("/api/v1/clients/{client_id}/trace", &["get"], get(clients::trace)),
        ("/api/v1/slowest", &["get"], get(clients::slowest)),
        ("/api/v1/talkers", &["get"], get(clients::talkers)),
        ("/api/v1/subscribers", &["get"], get(clients::subscribers)),
        ("/api/v1/sessions", &["get"], get(stored::sessions)),
        ("/api/v1/retained", &["get"], get(stored::retained)),
        ("/api/v1/partitions", &["get"], get(node::partitions)),
        ("/api/v1/config", &["get"], get(node::config)),
        ("/api/v1/drain", &["post"], post(node::drain)),
        ("/api/v1/rebalance", &["post"], post(node::rebalance)),
        ("/api/v1/log", &["get", "put"], get(node::log_level).put(node::set_log_level)),
    ]
}

pub(super) fn router() -> Router<Shared> {
    let routes = routes().into_iter();
    routes.fold(Router::new(), |router, (path, _, methods)| router.route(path, methods))
}

async fn openapi() -> Response {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Why a request is not answered as asked.
enum ApiError {
    /// The node does not run yet.
    Starting,
    /// No such thing.
    NotFound(&'static str),
    /// What was asked makes no sense.
    BadRequest(&'static str),
    /// A shard or the store does not answer.
    Silent(&'static str),
    /// It is not here: with JetStream it is on the servers.
    Elsewhere(&'static str),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Self::Silent(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Self::Elsewhere(text) => (StatusCode::NOT_IMPLEMENTED, text),
        };
        (status, fault(text)).into_response()
    }
}

type Answer = Result<Json<serde_json::Value>, ApiError>;

fn running(state: &AdminState) -> Result<Arc<crate::node::NodeHandle>, ApiError> {
    state.node.load_full().ok_or(ApiError::Starting)
}

/// A page.
fn page<R: Serialize>(rows: &[R], next: Option<String>) -> Answer {
    Ok(Json(json!({ "rows": rows, "next": next })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_every_route_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
            described.extend(methods.map(|method| format!("{method} {path}")));
        }
        let mut served: Vec<String> = routes()
            .iter()
            .flat_map(|(path, methods, _)| methods.iter().map(move |one| format!("{one} {path}")))
            .collect();
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
