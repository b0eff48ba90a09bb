//! The HTTP server: one thread, who may ask, how many at a time.

use super::{AdminState, api, metrics};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections served at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 65_536;

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, state: Arc<AdminState>) {
    let router = router(&state);
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor left, most likely: not at once again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // What goes wrong on one connection concerns its client, which knows.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn router(state: &Arc<AdminState>) -> Router {
    let open = Router::new()
        .route("/", get(page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    let guarded = Router::new()
        .route("/metrics", get(metrics::serve))
        .merge(api::router())
        .layer(middleware::from_fn_with_state(Arc::clone(state), authorize));
    open.merge(guarded)
        .layer(middleware::from_fn_with_state(Arc::clone(state), refuse_foreign))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::clone(state))
}

/// The status page: it holds no data, and asks for a token where one is needed.
async fn page() -> Response {
    // Nothing from elsewhere, and no other page around it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("page.html"))).into_response()
}

/// The process lives and this thread answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Clients may be sent here: the node runs, every shard answers, and it is not being drained.
async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, String) {
    let unready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    let Some(node) = state.node.load_full() else { return unready("starting") };
    if state.draining.load(Ordering::Relaxed) {
        return unready("draining");
    }
    let reports = node.reports().await;
    let silent: Vec<String> = (0..)
        .zip(&reports)
        .filter(|(_, report)| report.is_none())
        .map(|(shard, _): (u16, _)| shard.to_string())
        .collect();
    match silent.as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        silent => unready(&format!("shards that do not answer: {}", silent.join(", "))),
    }
}

/// Lets only those pass who know the token, if there is one.
async fn authorize(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let token = state.token.load_full();
    let given = bearer(request.headers());
    if token.is_some_and(|token| !given.is_some_and(|given| token.matches(given))) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        let body = fault("the token of admin_token_file as Authorization: Bearer is needed");
        return (StatusCode::UNAUTHORIZED, challenge, body).into_response();
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// A browser must not become anybody's hand: without a token only requests for an address or
/// `localhost` are answered, which a name that was made to point here is not, and only from pages of
/// this server.
async fn refuse_foreign(
    State(state): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    if state.token.load().is_none() && !is_own(request.headers()) {
        let body = fault("ask for this server by its address or localhost, from its own pages");
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    next.run(request).await
}

fn is_own(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return true };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        // An IPv6 address without a port has colons, too.
        if port.ends_with(']') { host } else { name }
    });
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let origin = text(header::ORIGIN).map(|origin| origin.trim_start_matches("http://"));
    (is_address || name == "localhost") && origin.is_none_or(|origin| origin == host)
}

/// What is wrong, as JSON.
pub(super) fn fault(text: &str) -> Json<serde_json::Value> {
    Json(json!({ "error": text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, origin: Option<&str>, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(is_own(&headers), expected, "{host} {origin:?}");
    }

    #[test]
    fn pages_of_others_and_names_that_point_here_are_foreign() {
        check("127.0.0.1:18083", None, true);
        check("localhost:18083", None, true);
        check("localhost", None, true);
        check("[::1]:18083", None, true);
        check("[::1]", None, true);
        check("127.0.0.1:18083", Some("http://127.0.0.1:18083"), true);
        check("127.0.0.1:18083", Some("http://evil.example"), false);
        check("127.0.0.1:18083", Some("null"), false);
        check("rebound.example:18083", None, false);
        check("rebound.example:18083", Some("http://rebound.example:18083"), false);
        assert!(is_own(&HeaderMap::new()), "HTTP/1.0");
    }
}
