//! Pictures that requests name for one message (`avatar_url`): fetched once, then ours.
//!
//! Clients take an avatar for a hash of this server, so that the picture must be here. One that
//! cannot be had in time is left out; the message is sent with the webhook's own.

use std::time::{Duration, Instant};

use guildhall_shared::{Id, id::marker};
use quick_cache::sync::Cache;

use crate::{
    error::Result,
    media::{self, ImageOf, Media},
    outgoing::{Outgoing, Unreachable},
};

/// A sender waits no longer for the picture.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Larger ones are left out.
const BYTES_MAX: usize = 8 << 20;
/// An address is asked again after this.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// As [`KNOWN_FOR`], where there was no picture.
const MISSED_FOR: Duration = Duration::from_secs(60);
/// Addresses remembered; those asked for longest ago are forgotten and fetched again.
const ADDRESSES_MAX: usize = 4096;

/// What was found lately, by webhook and address.
#[derive(Debug)]
pub(crate) struct Pictures(Cache<(Id<marker::Webhook>, String), Found>);

#[derive(Debug, Clone)]
struct Found {
    /// `None`: no picture.
    hash: Option<String>,
    until: Instant,
}

impl Default for Pictures {
    fn default() -> Self {
        Self(Cache::new(ADDRESSES_MAX))
    }
}

impl Pictures {
    /// The picture at an address, as the hash of an avatar that the caller's message shows.
    ///
    /// Errors: only of our own storage.
    pub(crate) async fn fetch(
        &self,
        outgoing: &Outgoing,
        media: &Media,
        webhook: Id<marker::Webhook>,
        address: &str,
    ) -> Result<Option<String>> {
        let of = ImageOf::WebhookAvatar(webhook.cast());
        let key = (webhook, address.to_owned());
        let known = self.0.get(&key);
        if let Some(found) = known.filter(|found| Instant::now() < found.until) {
            match found.hash {
                None => return Ok(None),
                Some(hash) if media::is_kept(media, of, &hash).await? => return Ok(Some(hash)),
                // Collected, as its messages are gone.
                Some(_) => {}
            }
        }
        let hash = match outgoing.parse(address) {
            Ok(url) => match outgoing.get(url, FETCH_TIMEOUT, BYTES_MAX).await {
                Ok(answer) if answer.status.is_success() => {
                    media::store_fetched(media, of, answer.body.into()).await?
                }
                // It was not asked for: that says nothing of the picture.
                Err(Unreachable::Busy) => return Ok(None),
                Ok(_) | Err(_) => None,
            },
            Err(_) => None,
        };
        let lasts = if hash.is_some() {
            KNOWN_FOR
        } else {
            MISSED_FOR
        };
        let until = Instant::now() + lasts;
        let found = Found {
            hash: hash.clone(),
            until,
        };
        self.0.insert(key, found);
        Ok(hash)
    }
}
