//! Passwords: hashed and checked with argon2id.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Password hashes being computed at once; each takes [`PASSWORD_MEMORY_KIB`].
const PASSWORDS_AT_ONCE: usize = 4;
/// Requests waiting for their turn; more are answered 503.
const PASSWORDS_WAITING_MAX: usize = 64;
const PASSWORD_MEMORY_KIB: u32 = 19 * 1024;

/// Hashes and checks passwords with argon2id, off the async threads.
#[derive(Debug)]
pub(crate) struct Passwords {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE)),
            admitted: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE + PASSWORDS_WAITING_MAX)),
        }
    }

    /// The PHC string to store. Errors: 503 when too many wait.
    pub(crate) async fn hash(&self, password: String) -> Result<String> {
        self.run(move || {
            let hash = argon2().hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string())
                .map_err(|error| Error::Internal(format!("argon2: {error}")))
        })
        .await?
    }

    /// Whether `password` has the stored hash. `None` (no such account) takes as long as
    /// a wrong password, so that timing names no accounts.
    pub(crate) async fn verify(&self, password: String, stored: Option<String>) -> Result<bool> {
        self.run(move || match stored {
            Some(stored) => PasswordHash::new(&stored)
                .is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok()),
            None => {
                let _ = argon2().hash_password(password.as_bytes());
                false
            }
        })
        .await
    }

    /// The places are the work's own: it goes on when whoever asked for it has gone.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Error::Unavailable("too many passwords wait to be checked"))?;
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Internal("the password semaphore is never closed".to_owned()))?;
        let placed = move || {
            let _places = (admitted, running);
            work()
        };
        tokio::task::spawn_blocking(placed)
            .await
            .map_err(|error| Error::Internal(format!("password task: {error}")))
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(PASSWORD_MEMORY_KIB, 2, 1, None)
        .expect("19 MiB, 2 passes and 1 lane are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_password_has_its_place_until_it_is_hashed_even_if_nobody_waits() {
        let passwords = Passwords::new();
        let (end, until) = std::sync::mpsc::channel::<()>();
        let asked = passwords.run(move || until.recv().is_ok());
        assert!(asked.now_or_never().is_none());
        assert_eq!(passwords.running.available_permits(), PASSWORDS_AT_ONCE - 1);
        end.send(()).unwrap();
        let all = passwords.running.acquire_many(PASSWORDS_AT_ONCE as u32);
        assert!(all.await.is_ok());
    }
}
