//! Signed addresses: who has one may read that attachment, or fill that upload slot.
//!
//! The signature covers everything in front of it, so an address cannot be guessed from the
//! ids of a channel nor bent to another file.

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{Attachment, Channel, User},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Media;

/// An address given out to replace an expired one holds this long, seconds.
const REFRESHED_SECONDS: i64 = 24 * 3600;
/// An upload slot waits this long for its bytes and its message, seconds.
pub(crate) const SLOT_SECONDS: i64 = 3600;

/// The query of a signed attachment address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Hex Unix seconds; never expires without.
    pub(crate) ex: Option<String>,
    pub(crate) hm: Option<String>,
}

impl Signed {
    pub(crate) fn parse(query: &str) -> Self {
        let mut signed = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "ex" => signed.ex = Some(value.into_owned()),
                "hm" => signed.hm = Some(value.into_owned()),
                _ => {}
            }
        }
        signed
    }
}

/// What an upload slot was given for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotClaim {
    pub(crate) id: Id<Attachment>,
    pub(crate) channel: Id<Channel>,
    pub(crate) user: Id<User>,
    pub(crate) size: u64,
    /// Unix seconds.
    pub(crate) until: i64,
    pub(crate) filename: String,
}

impl Media {
    fn signature(&self, purpose: &str, signed: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.reveal().as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(signed.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn is_signed(&self, purpose: &str, signed: &str, signature: &str) -> bool {
        let own = self.signature(purpose, signed);
        own.as_bytes().ct_eq(signature.as_bytes()).into()
    }

    /// Where an attachment is read; for good.
    pub(crate) fn attachment_url(
        &self,
        channel: Id<Channel>,
        id: Id<Attachment>,
        filename: &str,
    ) -> String {
        let path = format!("{channel}/{id}/{filename}");
        let signature = self.signature("attachment", &path);
        format!("{}/attachments/{path}?hm={signature}", self.cdn_url)
    }

    /// Whether this query opens `path` (`<channel>/<id>/<filename>`) at this time.
    pub(crate) fn opens(&self, path: &str, query: &Signed, now: i64) -> bool {
        let signature = query.hm.as_deref().unwrap_or_default();
        let Some(ex) = &query.ex else {
            return self.is_signed("attachment", path, signature);
        };
        i64::from_str_radix(ex, 16).is_ok_and(|until| until >= now)
            && self.is_signed("attachment", &format!("{path}?{ex}"), signature)
    }

    /// A fresh address for one that once was signed here, expired or not.
    pub(crate) fn refreshed(&self, url: &str) -> Option<String> {
        let (head, query) = url.split_once('?')?;
        let (_, path) = head.split_once("/attachments/")?;
        let signed = Signed::parse(query);
        if !self.opens(path, &signed, i64::MIN) {
            return None;
        }
        let now = Timestamp::now().0.unix_timestamp();
        let ex = format!("{:x}", now + REFRESHED_SECONDS);
        let hm = self.signature("attachment", &format!("{path}?{ex}"));
        let base = &self.cdn_url;
        Some(format!(
            "{base}/attachments/{path}?ex={ex}&is={now:x}&hm={hm}"
        ))
    }

    /// The name by which a message refers to the bytes of a slot.
    pub(crate) fn slot_name(&self, slot: &SlotClaim) -> String {
        let SlotClaim {
            id,
            channel,
            user,
            size,
            until,
            filename,
        } = slot;
        let head = format!("{id}-{channel}-{user}-{size}-{until}");
        let signature = self.signature("slot", &format!("{head}/{filename}"));
        format!("{head}-{signature}/{filename}")
    }

    /// The slot behind a name, if it was given out here and is not over.
    pub(crate) fn slot(&self, name: &str) -> Option<SlotClaim> {
        let (head, filename) = name.split_once('/')?;
        let (head, signature) = head.rsplit_once('-')?;
        if !self.is_signed("slot", &format!("{head}/{filename}"), signature) {
            return None;
        }
        let mut parts = head.split('-');
        let slot = SlotClaim {
            id: parts.next()?.parse().ok()?,
            channel: parts.next()?.parse().ok()?,
            user: parts.next()?.parse().ok()?,
            size: parts.next()?.parse().ok()?,
            until: parts.next()?.parse().ok()?,
            filename: filename.to_owned(),
        };
        (slot.until >= Timestamp::now().0.unix_timestamp()).then_some(slot)
    }
}
