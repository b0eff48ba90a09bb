//! What each device keeps of its TLS session, so that it can resume it.
//!
//! rustls asks one store for all connections of a configuration, by the name of the server, which is
//! the same for all devices here. So a device lends its own wallet to the store for the time of a call:
//! one configuration for all, nothing shared, no lock, and a device that has no session holds a null
//! pointer.

use std::cell::RefCell;

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// The newest session of a device.
#[derive(Debug, Default)]
pub(super) struct Wallet {
    session: Option<Box<Session>>,
    /// The key exchange the broker chose the last time: the first guess is right from then on.
    group: Option<NamedGroup>,
}

#[derive(Debug)]
enum Session {
    /// May be used again and again.
    Tls12(Tls12ClientSessionValue),
    /// A ticket, to be used once.
    Tls13(Tls13ClientSessionValue),
}

thread_local! {
    /// The wallet of the device whose turn it is on this thread.
    static LENT: RefCell<Wallet> = RefCell::default();
}

impl Wallet {
    /// Lends it to [`LentWallet`] while `work` goes on.
    pub(super) fn lend<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let swap = |own: &mut Self| LENT.with_borrow_mut(|lent| std::mem::swap(lent, own));
        swap(self);
        let result = work();
        swap(self);
        result
    }

    /// Whether there is a session to resume.
    #[cfg(test)]
    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }
}

/// The store that rustls asks: whatever wallet is lent on this thread.
#[derive(Debug)]
pub(super) struct LentWallet;

impl ClientSessionStore for LentWallet {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        LENT.with_borrow_mut(|wallet| wallet.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        LENT.with_borrow(|wallet| wallet.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        LENT.with_borrow_mut(|wallet| wallet.session = Some(Box::new(Session::Tls12(value))));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        LENT.with_borrow(|wallet| match wallet.session.as_deref() {
            Some(Session::Tls12(value)) => Some(value.clone()),
            Some(Session::Tls13(_)) | None => None,
        })
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        LENT.with_borrow_mut(|wallet| {
            wallet.session.take_if(|session| matches!(**session, Session::Tls12(_)));
        });
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        LENT.with_borrow_mut(|wallet| wallet.session = Some(Box::new(Session::Tls13(value))));
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        LENT.with_borrow_mut(|wallet| {
            let taken = wallet.session.take_if(|session| matches!(**session, Session::Tls13(_)));
            match taken.map(|session| *session) {
                Some(Session::Tls13(value)) => Some(value),
                Some(Session::Tls12(_)) | None => None,
            }
        })
    }
}
