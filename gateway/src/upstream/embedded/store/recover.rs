//! From the store and the logs of the last boot to the state of this one.

use super::fold::{SessionValue, fold, qos2_deltas, replace_session};
use super::state::KeyedState;
use super::{Space, StoreError};
use crate::proto::record::{Record, SessionPut};
use crate::proto::session::record::{Qos2Delta, shared_of};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::log::Log;
use crate::upstream::embedded::log::files::Files;
use crate::upstream::embedded::log::recover::for_each_record;

/// Folds what `logs` hold beyond the store and persists the result. Returns how many records.
///
/// It must have finished before any record of this boot is appended: the records of a session
/// may move to another partition from boot to boot, and then this is what keeps their order.
///
/// # Errors
///
/// [`StoreError::Log`]: a log cannot be read. [`StoreError::Engine`]: the store failed.
pub fn fold_logs(
    state: &mut KeyedState,
    files: &mut dyn Files,
    logs: &[Log],
) -> Result<u64, StoreError> {
    let mut count = 0;
    for log in logs {
        let partition = log.partition();
        let from = state.folded(partition)?;
        let mut result = Ok(());
        for_each_record(files, log, from, |sequence, body| {
            if result.is_ok()
                && let Some(record) = Record::decode(body)
            {
                count += 1;
                result = fold(state, partition, sequence, &record);
                if result.is_ok() && state.change_count() >= BATCH_CHANGES {
                    result = state.commit();
                }
            }
        })
        .map_err(|error| StoreError::Log { partition: partition.0, error })?;
        result?;
        state.set_folded(partition, log.committed_end());
    }
    state.persist()?;
    Ok(count)
}

/// A session to be written instead of the one found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// When it ends.
    pub expires_at: Timestamp,
    /// When its will is due.
    pub will_at: Timestamp,
    /// The rest of its state.
    pub record: Vec<u8>,
}

/// Decides about a session: whose it is, its record, and the steps since that.
pub type Settle<'a> = dyn FnMut(&str, SessionValue<'_>, &[Qos2Delta]) -> Option<Replacement> + 'a;

/// Shows every session to `settle` and writes what it returns instead: sessions that were
/// connected at the crash are not any more. Returns how many were replaced.
///
/// It is also shown the steps since the record of a session with shared subscriptions: a message
/// they brought may lie before everything else the session needs, so its record must name it.
///
/// The floors that those sessions followed are forgotten afterwards.
///
/// A crash before the persist at the end shows the same sessions again, so `settle` must return
/// the same for them. QoS 2 steps since their last record stay.
///
/// # Errors
///
/// [`StoreError::Engine`].
pub fn settle_sessions(state: &mut KeyedState, settle: &mut Settle<'_>) -> Result<u64, StoreError> {
    let mut from = Vec::new();
    let mut count = 0;
    loop {
        let mut replacements = Vec::new();
        let mut visited = 0;
        let mut last = None;
        state.scan(Space::Sessions, &[], &from, &mut |key, value| {
            visited += 1;
            last = Some(key.to_vec());
            if let (Ok(client_id), Some(session)) =
                (std::str::from_utf8(key), SessionValue::decode(value))
            {
                let steps = match shared_of(session.record).is_empty() {
                    true => Ok(Vec::new()),
                    false => qos2_deltas(state, client_id),
                };
                let replacement = steps.map(|steps| settle(client_id, session, &steps));
                replacements.push((client_id.to_owned(), replacement));
            }
            visited < BATCH_CHANGES
        })?;
        for (client_id, with) in replacements {
            let Some(with) = with? else { continue };
            let Replacement { expires_at, will_at, record } = &with;
            let put = SessionPut {
                client_id: &client_id,
                expires_at: *expires_at,
                will_at: *will_at,
                record,
            };
            replace_session(state, &put)?;
            count += 1;
        }
        state.commit()?;
        let Some(mut next) = last.filter(|_| visited == BATCH_CHANGES) else { break };
        next.push(0);
        from = next;
    }
    state.persist()?;
    // Only now, so that a crash before finds them again. Nobody follows the floors of the last boot
    // any more: a session that begins to follow in this one may be behind them.
    for key in state.keys(Space::Floors, &[])? {
        state.delete(Space::Floors, key);
    }
    state.needed.forget_floors();
    state.persist()?;
    Ok(count)
}

/// Changes in one batch of the store.
const BATCH_CHANGES: usize = 4_096;
