//! Asking somebody else who a client is: a POST over HTTP, on a thread of its own.
//!
//! ```text
//! {"client_id": "c", "user_name": "anna", "password": "pw", "peer": "192.0.2.7:40000", "certificate": null}
//! 200 {"result": "allow" | "deny" | "ignore", "user_name": ..., "expires_at": seconds, "acl": {...},
//!      "mountpoint": ...}
//! ```
//! `allow`: the client is `user_name`. Without one it is the user that its password goes with, else the
//! name in its certificate, else the user it says it is; `expires_at` ends the connection, and `acl` is
//! as in a token. `mountpoint` is that of the client's tenant; without it, the user's. `deny`: its credentials are wrong. `ignore`: the next method is asked.
//! Anything else, or nothing in time, lets nobody in: the client hears Server unavailable.
//!
//! Who was allowed is not asked about again for `http_auth_cache_s`, if all that would be sent is the same
//! but for the port of `peer`: client id, user name, password, address and certificate. Nothing else is
//! remembered, and nothing over a reload.

use super::directory::Directory;
use super::jwt::{mountpoint_in, rules_in};
use super::thread::{AuthenticationJob, Clocks, Shards};
use crate::proto::access::{Authentication, AuthenticationRequest, Identity, Proof, Refusal};
use crate::proto::output::ShardIndex;
use crate::proto::time::Timestamp;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 65_536;
/// At most one line in the log in this time for answers that say nothing.
const FAILURES_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Whom to ask, and how.
#[derive(Clone)]
pub struct CalloutSettings {
    /// Where to.
    pub url: String,
    /// A certificate authority to trust beside the usual ones, PEM.
    pub authority: Option<Vec<u8>>,
    /// What stands behind `Authorization: Bearer`.
    pub token: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions under way.
    pub concurrency_max: usize,
    /// Questions that wait.
    pub queue_max: usize,
    /// How long who was allowed is not asked about again.
    pub cache: Duration,
    /// Whom to remember at most.
    pub cache_max: usize,
    /// The time.
    pub clock: Clocks,
}

/// A question on its way to the thread.
pub(super) struct Question {
    pub(super) shard: ShardIndex,
    pub(super) request: AuthenticationRequest,
    /// The method to go on with if the answer is that nobody knows.
    pub(super) next: usize,
    /// The queue of the thread that asks.
    pub(super) asker: flume::Sender<AuthenticationJob>,
}

enum Message {
    Ask(Box<Question>),
    /// Other files count: what was allowed may not be any more.
    Load(Arc<Directory>),
}

/// The running thread.
pub(super) struct CalloutThread {
    queue: mpsc::Sender<Message>,
    thread: JoinHandle<()>,
}

/// Where questions are left.
#[derive(Clone)]
pub(super) struct CalloutQueue(mpsc::Sender<Message>);

#[derive(Deserialize)]
struct Answer {
    result: String,
    user_name: Option<String>,
    expires_at: Option<u64>,
    acl: Option<Value>,
    mountpoint: Option<Value>,
}

/// What an answer means.
enum Verdict {
    Allowed(Arc<Identity>),
    Denied,
    Banned,
    Ignored,
    /// It is none.
    Failed(String),
}

impl CalloutThread {
    pub(super) fn spawn(
        settings: CalloutSettings,
        directory: Arc<Directory>,
        shards: Arc<dyn Shards>,
    ) -> io::Result<Self> {
        let client = client(&settings).map_err(io::Error::other)?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        let key = key.map_err(|_| io::Error::other("no randomness"))?;
        let (queue, messages) = mpsc::channel(settings.queue_max.max(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread =
            std::thread::Builder::new().name("http callout".to_owned()).spawn(move || {
                let remembered = RefCell::new(Remembered::default());
                let failures = RefCell::new(Timestamp::START);
                let directory = RefCell::new(directory);
                let callout =
                    Callout { settings, directory, shards, client, key, remembered, failures };
                let callout = Rc::new(callout);
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, callout.run(messages));
            })?;
        Ok(Self { queue, thread })
    }

    pub(super) fn queue(&self) -> CalloutQueue {
        CalloutQueue(self.queue.clone())
    }

    /// Lets the thread end. Every [`CalloutQueue`] must be gone, or it waits for them.
    pub(super) fn stop(self) {
        drop(self.queue);
        let _ = self.thread.join();
    }
}

impl CalloutQueue {
    /// Leaves a question; gives it back when too many wait.
    pub(super) fn ask(&self, question: Question) -> Option<Box<Question>> {
        match self.0.try_send(Message::Ask(Box::new(question))) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(Message::Ask(question))) => Some(question),
            Err(mpsc::error::TrySendError::Full(Message::Load(_))) => {
                unreachable!("it was a question")
            }
        }
    }

    /// From here on these files count; then the shards hear of it. Blocks until there is room.
    pub(super) fn load(&self, directory: &Arc<Directory>) {
        // A closed queue means that the node ends.
        let _ = self.0.blocking_send(Message::Load(Arc::clone(directory)));
    }
}

fn client(settings: &CalloutSettings) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .timeout(settings.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(settings.concurrency_max);
    if let Some(authority) = &settings.authority {
        builder = builder.add_root_certificate(reqwest::Certificate::from_pem(authority)?);
    }
    builder.build()
}

struct Callout {
    settings: CalloutSettings,
    directory: RefCell<Arc<Directory>>,
    shards: Arc<dyn Shards>,
    client: reqwest::Client,
    key: hmac::Key,
    remembered: RefCell<Remembered>,
    /// When a failure may be logged again.
    failures: RefCell<Timestamp>,
}

impl Callout {
    async fn run(self: Rc<Self>, mut messages: mpsc::Receiver<Message>) {
        let room = Arc::new(Semaphore::new(self.settings.concurrency_max.max(1)));
        while let Some(message) = messages.recv().await {
            let question = match message {
                Message::Ask(question) => question,
                Message::Load(directory) => {
                    *self.remembered.borrow_mut() = Remembered::default();
                    *self.directory.borrow_mut() = Arc::clone(&directory);
                    self.shards.recheck(&directory);
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let callout = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                callout.answer(*question).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, question: Question) {
        let now = (self.settings.clock.steady)();
        let tag = self.tag(&question.request);
        let wall = (self.settings.clock.wall)();
        let known = self.remembered.borrow().get(&tag, now);
        let known = known.filter(|identity| wall < identity.expires_at);
        let verdict = match known {
            Some(identity) => Verdict::Allowed(identity),
            None => self.ask(&question).await,
        };
        let answer: Authentication = match verdict {
            Verdict::Allowed(identity) => {
                let until = (self.settings.clock.steady)().after(self.settings.cache);
                let is_remembered = !self.settings.cache.is_zero();
                let half_max = if is_remembered { self.settings.cache_max / 2 } else { 0 };
                self.remembered.borrow_mut().note(tag, &identity, until, half_max);
                Ok(identity)
            }
            Verdict::Denied => Err(Refusal::BadCredentials),
            Verdict::Banned => Err(Refusal::Banned),
            Verdict::Failed(reason) => {
                self.note_failure(&reason, now);
                Err(Refusal::Unavailable)
            }
            Verdict::Ignored => {
                let Question { shard, request, next, asker, .. } = question;
                let connection = request.connection;
                let job = AuthenticationJob::GoOn { shard, request, next };
                match asker.try_send(job) {
                    Ok(()) | Err(flume::TrySendError::Disconnected(_)) => return,
                    Err(flume::TrySendError::Full(_)) => {
                        self.shards.answer(shard, connection, Err(Refusal::Busy));
                        return;
                    }
                }
            }
        };
        self.shards.answer(question.shard, question.request.connection, answer);
    }

    async fn ask(&self, question: &Question) -> Verdict {
        let request = &question.request;
        let password = request.password.as_deref().map(std::str::from_utf8).transpose();
        let Ok(password) = password else {
            // JSON has no words for it.
            return Verdict::Denied;
        };
        let origin = request.origin.as_ref();
        let body = json!({
            "client_id": request.client_id,
            "user_name": request.user_name,
            "password": password,
            "peer": origin.map(|origin| origin.peer.to_string()),
            "certificate": origin.and_then(|origin| origin.certificate_identity.as_deref()),
        });
        let mut post = self.client.post(&self.settings.url).body(body.to_string());
        post = post.header("content-type", "application/json");
        if let Some(token) = &self.settings.token {
            post = post.bearer_auth(token);
        }
        match self.read(post).await {
            Ok(answer) => verdict_of(answer, request, &self.directory.borrow()),
            Err(reason) => Verdict::Failed(reason),
        }
    }

    /// The answer, or what is wrong with it. Of the question nothing is said.
    async fn read(&self, post: reqwest::RequestBuilder) -> Result<Answer, String> {
        let failed = |error: reqwest::Error| error.without_url().to_string();
        let mut response = post.send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| "not the JSON that was expected".to_owned())
    }

    /// Stands for all that [`Callout::ask`] sends but the port, which is another for each connection.
    fn tag(&self, request: &AuthenticationRequest) -> [u8; 32] {
        let origin = request.origin.as_ref();
        let peer = origin.map(|origin| {
            let mut peer = origin.peer;
            peer.set_port(0);
            peer.to_string()
        });
        let mut message = Vec::new();
        let fields = [
            Some(request.client_id.as_bytes()),
            request.user_name.as_deref().map(str::as_bytes),
            request.password.as_deref(),
            peer.as_deref().map(str::as_bytes),
            origin.and_then(|origin| origin.certificate_identity.as_deref()).map(str::as_bytes),
        ];
        for field in fields {
            message.push(u8::from(field.is_some()));
            let field = field.unwrap_or_default();
            message.extend_from_slice(&(field.len() as u64).to_le_bytes());
            message.extend_from_slice(field);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.key, &message).as_ref());
        tag
    }

    fn note_failure(&self, reason: &str, now: Timestamp) {
        let mut next_at = self.failures.borrow_mut();
        if now >= *next_at {
            *next_at = now.after(FAILURES_LOG_INTERVAL);
            tracing::warn!(reason, "http_auth_url gives no answer that counts");
        }
    }
}

fn verdict_of(answer: Answer, request: &AuthenticationRequest, directory: &Directory) -> Verdict {
    match answer.result.as_str() {
        "allow" => {}
        "deny" => return Verdict::Denied,
        "ignore" => return Verdict::Ignored,
        _ => return Verdict::Failed("result is not allow, deny or ignore".to_owned()),
    }
    let said = request.user_name.as_deref();
    // A name that comes without a password is a claim; that of a certificate was proven.
    let own =
        said.filter(|_| request.password.is_some()).or_else(|| request.certificate_name()).or(said);
    let user_name = answer.user_name.as_deref().or(own).map(Box::<str>::from);
    let Some(user_name) = user_name.filter(|name| !name.is_empty()) else {
        return Verdict::Failed("allow, and nobody has said a user name".to_owned());
    };
    let acl = match &answer.acl {
        None => directory.rules_of(&user_name),
        Some(rules) => match rules_in(rules) {
            Some(acl) => Some(acl),
            None => return Verdict::Failed("acl is not as it should be".to_owned()),
        },
    };
    let expires_at = answer
        .expires_at
        .map_or(Timestamp::NEVER, |seconds| Timestamp(seconds.saturating_mul(1_000)));
    if directory.is_banned(&user_name) {
        return Verdict::Banned;
    }
    let mountpoint = match &answer.mountpoint {
        None => directory.mountpoint_of(&user_name),
        Some(mountpoint) => match mountpoint_in(mountpoint) {
            Some(mountpoint) => mountpoint,
            None => return Verdict::Failed("mountpoint is no topic level".to_owned()),
        },
    };
    let (own_rules, own_mountpoint) = (answer.acl.is_some(), answer.mountpoint.is_some());
    let proof = Proof::Http { own_rules, own_mountpoint };
    let user_name = Some(user_name);
    Verdict::Allowed(Arc::new(Identity { user_name, mountpoint, acl, proof, expires_at }))
}

/// Who was allowed, until when; the later half and the earlier.
#[derive(Default)]
struct Remembered {
    young: HashMap<[u8; 32], (Arc<Identity>, Timestamp)>,
    old: HashMap<[u8; 32], (Arc<Identity>, Timestamp)>,
}

impl Remembered {
    fn get(&self, tag: &[u8; 32], now: Timestamp) -> Option<Arc<Identity>> {
        let (identity, until) = self.young.get(tag).or_else(|| self.old.get(tag))?;
        (now < *until).then(|| Arc::clone(identity))
    }

    /// Notes somebody who is not there, or no longer in time.
    fn note(&mut self, tag: [u8; 32], identity: &Arc<Identity>, until: Timestamp, half_max: usize) {
        let known = self.young.get(&tag).or_else(|| self.old.get(&tag));
        if half_max == 0 || known.is_some_and(|(same, _)| Arc::ptr_eq(same, identity)) {
            return;
        }
        if self.young.len() >= half_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tag, (Arc::clone(identity), until));
    }
}
