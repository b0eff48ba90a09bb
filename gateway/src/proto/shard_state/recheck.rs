//! Files were read anew: those who are connected are looked at again.
//!
//! A slice of the sessions at a time, so that nobody waits for a million of them. Who may not connect
//! any more hears DISCONNECT Not authorized; who may do something else from now on keeps the
//! subscriptions that are still allowed, and loses the others without a word, for MQTT has none.

use super::prove::Anew;
use super::{Context, ProtocolError, ShardState};
use crate::proto::access::{Identity, Recheck};
use crate::proto::output::ConnectionId;
use crate::proto::session::Stage;
use ahash::AHashMap;
use std::sync::Arc;

/// Sessions looked at in one go.
const SLICE: u32 = 512;

/// What is left to look at.
#[derive(Debug)]
pub(super) struct Rechecking {
    source: Arc<dyn Recheck>,
    /// The next place in the slab of sessions.
    next: u32,
    /// Identities looked at, by where they are: most are shared. The former is kept so that its place
    /// is not taken by another.
    known: AHashMap<usize, (Arc<Identity>, Option<Arc<Identity>>)>,
}

impl Rechecking {
    /// Who the client is by now.
    fn identity(&mut self, former: &Arc<Identity>) -> Option<Arc<Identity>> {
        let place = Arc::as_ptr(former) as usize;
        let source = &self.source;
        let look = || {
            // With another mountpoint it would be another session.
            let now = source.recheck(former).filter(|now| now.mountpoint == former.mountpoint);
            // The same in other words is the same.
            (
                Arc::clone(former),
                now.map(|now| if now == *former { Arc::clone(former) } else { now }),
            )
        };
        self.known.entry(place).or_insert_with(look).1.clone()
    }
}

impl ShardState {
    /// What is known of clients has changed. Everybody is looked at by
    /// [`ShardState::handle_timeout`], those who wait for their session at once.
    pub fn handle_access_changed(&mut self, source: Arc<dyn Recheck>, context: &mut Context<'_>) {
        let mut rechecking = Rechecking { source, next: 0, known: AHashMap::new() };
        let mut gone: Vec<ConnectionId> = Vec::new();
        for pending in self.pending_connects.values_mut() {
            let Some(former) = pending.identity() else { continue };
            match rechecking.identity(former) {
                Some(identity) => pending.identify(identity),
                None => gone.push(pending.connection),
            }
        }
        // What they were asked to prove is what was known before.
        let strangers = &mut self.strangers;
        let waiting = strangers.waiting.values_mut().filter_map(|one| one.challenge.as_deref_mut());
        let anew = strangers.anew.values_mut().filter_map(Anew::challenge_mut);
        for challenge in waiting.chain(anew) {
            if let Some(former) = challenge.identity() {
                challenge.identify(rechecking.identity(former));
            }
        }
        for id in gone {
            self.refuse(id, ProtocolError::NotAuthorized, context);
        }
        self.rechecking = Some(Box::new(rechecking));
    }

    /// Looks at the next slice.
    pub(super) fn recheck_slice(&mut self, context: &mut Context<'_>) {
        let Some(mut rechecking) = self.rechecking.take() else {
            return;
        };
        let end = u32::try_from(self.sessions.len()).expect("sessions are bounded by memory");
        let slice = rechecking.next..rechecking.next.saturating_add(SLICE).min(end);
        rechecking.next = slice.end;
        for index in slice {
            self.recheck_session(index, &mut rechecking, context);
        }
        if rechecking.next < end {
            self.rechecking = Some(rechecking);
        }
    }

    fn recheck_session(
        &mut self,
        index: u32,
        rechecking: &mut Rechecking,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session(index).filter(|one| one.stage == Stage::Online) else {
            return;
        };
        let (Some(former), Some(connection)) = (&session.identity, session.connection) else {
            return;
        };
        match rechecking.identity(former) {
            Some(identity) if Arc::ptr_eq(&identity, former) => {}
            Some(identity) => {
                let persistent = session.is_persistent();
                if self.identify(index, Some(identity), context) && persistent {
                    self.record_session(index, context);
                }
            }
            None => {
                self.counters.let_go += 1;
                self.refuse(connection, ProtocolError::NotAuthorized, context);
            }
        }
    }
}
