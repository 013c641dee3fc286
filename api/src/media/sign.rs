//! Signed addresses: who has one may read that attachment, or fill that upload slot.
//!
//! The signature covers everything in front of it, so an address cannot be guessed from the
//! ids of a channel nor bent to another file.

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{Attachment, Channel, User},
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Media;
use crate::{config::Secret, keys::Use};

/// An address given out to replace an expired one holds this long, seconds.
const REFRESHED_SECONDS: i64 = 24 * 3600;
/// An upload slot waits this long for its bytes and its message, seconds.
pub(crate) const SLOT_SECONDS: i64 = 3600;
/// Letters of a name in an address at most.
const FILENAME_MAX: usize = 260;

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
    /// Bytes, as announced.
    pub(crate) size: u64,
    /// Unix seconds.
    pub(crate) until: i64,
    pub(crate) filename: String,
}

/// What a signature is for; one of another purpose is none.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Attachment,
    Slot,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Attachment => "attachment",
            Self::Slot => "slot",
        }
    }

    const fn key_use(self) -> Use {
        match self {
            Self::Attachment => Use::Attachment,
            Self::Slot => Use::UploadSlot,
        }
    }
}

fn signature_by(key: &Secret, purpose: Purpose, signed: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(purpose.name().as_bytes());
    mac.update(&[0]);
    mac.update(signed.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// A file's name as it stands in addresses: letters, digits, `.`, `_` and `-`, no folders.
pub(crate) fn sanitize(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let chars = base.chars().map(|c| if is_kept(c) { c } else { '_' });
    let mut name: String = chars.collect();
    if name.len() > FILENAME_MAX {
        // The end says what it is.
        name.drain(..name.len() - FILENAME_MAX);
    }
    // Hidden files and `..` are nobody's wish.
    let trimmed = name.trim_start_matches('.').len();
    name.drain(..name.len() - trimmed);
    if name.is_empty() {
        "file".to_owned()
    } else {
        name
    }
}

impl Media {
    fn signature(&self, purpose: Purpose, signed: &str) -> String {
        signature_by(&self.keys.current, purpose, signed)
    }

    fn is_signed(&self, purpose: Purpose, signed: &str, signature: &str) -> bool {
        let signing = self.keys.first(purpose.key_use(), |key| {
            let own = signature_by(key, purpose, signed);
            bool::from(own.as_bytes().ct_eq(signature.as_bytes())).then_some(())
        });
        signing.is_some()
    }

    /// Where an attachment is read; for good.
    pub(crate) fn attachment_url(
        &self,
        channel: Id<Channel>,
        id: Id<Attachment>,
        filename: &str,
    ) -> String {
        let path = format!("{channel}/{id}/{filename}");
        let signature = self.signature(Purpose::Attachment, &path);
        format!("{}/attachments/{path}?hm={signature}", self.cdn_url)
    }

    /// Makes the addresses of these attachments, wherever in a stored object they stand, those of
    /// today: they may be signed with a key of before. `own`: what the object's readers may read.
    pub(crate) fn sign_anew(&self, own: &[Id<Attachment>], value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(signed) = self.signed_today(own, text) {
                    *text = signed;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|each| self.sign_anew(own, each)),
            Value::Object(map) => map.values_mut().for_each(|each| self.sign_anew(own, each)),
            _ => {}
        }
    }

    /// The address with today's signature, if it is one of these attachments' for good.
    fn signed_today(&self, own: &[Id<Attachment>], url: &str) -> Option<String> {
        let (head, signature) = url.split_once("?hm=")?;
        let (_, path) = head.rsplit_once("/attachments/")?;
        let mut parts = path.split('/');
        let (channel, id, filename) = (parts.next()?, parts.next()?, parts.next()?);
        let is_own = parts.next().is_none()
            && channel.parse::<Id<Channel>>().is_ok()
            && id
                .parse::<Id<Attachment>>()
                .is_ok_and(|id| own.contains(&id))
            && sanitize(filename) == filename;
        let signed = is_own.then(|| self.signature(Purpose::Attachment, path))?;
        (signature != signed).then(|| format!("{head}?hm={signed}"))
    }

    /// Whether this query opens `path` (`<channel>/<id>/<filename>`) at this time.
    pub(crate) fn opens(&self, path: &str, query: &Signed, now: i64) -> bool {
        let signature = query.hm.as_deref().unwrap_or_default();
        let Some(ex) = &query.ex else {
            // No name has a `?`: it would be the end of an address that runs out.
            return !path.contains('?') && self.is_signed(Purpose::Attachment, path, signature);
        };
        i64::from_str_radix(ex, 16).is_ok_and(|until| until >= now)
            && self.is_signed(Purpose::Attachment, &format!("{path}?{ex}"), signature)
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
        let hm = self.signature(Purpose::Attachment, &format!("{path}?{ex}"));
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
        let signature = self.signature(Purpose::Slot, &format!("{head}/{filename}"));
        format!("{head}-{signature}/{filename}")
    }

    /// The slot behind a name, if it was given out here and is not over.
    pub(crate) fn slot(&self, name: &str) -> Option<SlotClaim> {
        let (head, filename) = name.split_once('/')?;
        let (head, signature) = head.rsplit_once('-')?;
        if !self.is_signed(Purpose::Slot, &format!("{head}/{filename}"), signature) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{config::MediaConfig, keys::Keys};

    const OLD: &str = "the old key of a cluster, long enough";
    const NEW: &str = "the new key of a cluster, long enough";

    fn id<T>(id: u64) -> Id<T> {
        Id::new(id).unwrap()
    }

    /// One whose database is never asked.
    fn media(keys: &Keys) -> (tempfile::TempDir, Media) {
        let folder = tempfile::tempdir().unwrap();
        let config = MediaConfig::in_folder(folder.path().to_owned());
        let db =
            sqlx::postgres::PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/");
        let media = Media::with(&config, keys, "http://here", db.unwrap()).unwrap();
        (folder, media)
    }

    fn signed(url: &str) -> Signed {
        Signed::parse(url.split_once('?').unwrap().1)
    }

    #[tokio::test]
    async fn while_the_key_is_renewed_addresses_and_slots_of_either_are_good() {
        let (_old, old) = media(&Keys::renewing(OLD, None, None));
        let (_first, first) = media(&Keys::renewing(OLD, Some(NEW), None));
        let (_second, second) = media(&Keys::renewing(NEW, None, Some(OLD)));
        let (_new, new) = media(&Keys::renewing(NEW, None, None));
        let url = |media: &Media| media.attachment_url(id(1), id(2), "a.png");
        assert_eq!((url(&old), url(&new)), (url(&first), url(&second)));
        let opens = |media: &Media, url: &str| media.opens("1/2/a.png", &signed(url), 0);
        let name = |media: &Media| {
            media.slot_name(&SlotClaim {
                id: id(2),
                channel: id(1),
                user: id(3),
                size: 10,
                until: i64::from(u32::MAX),
                filename: "a.png".to_owned(),
            })
        };
        for media in [&first, &second] {
            for made in [&old, &new] {
                assert!(opens(media, &url(made)));
                assert!(media.slot(&name(made)).is_some());
                assert!(opens(media, &media.refreshed(&url(made)).unwrap()));
            }
        }
        let (_strange, strange) = media(&Keys::renewing("strange", Some("odd"), None));
        for (media, made) in [(&old, &new), (&new, &old), (&second, &strange)] {
            assert!(!opens(media, &url(made)));
            assert!(media.slot(&name(made)).is_none());
            assert_eq!(media.refreshed(&url(made)), None);
        }
        // A refreshed address is the current key's.
        assert!(opens(&new, &second.refreshed(&url(&old)).unwrap()));
    }

    #[tokio::test]
    async fn stored_addresses_are_signed_anew_for_a_messages_own_attachments_alone() {
        let (_old, old) = media(&Keys::renewing(OLD, None, None));
        // The old key is known no more.
        let (_new, new) = media(&Keys::renewing(NEW, None, None));
        let (own, other) = (id(2), id(4));
        let stored = |media: &Media| {
            let address = |id, name: &str| media.attachment_url(self::id(1), id, name);
            json!([{
                "url": address(own, "a.png"),
                "image": { "proxy_url": address(own, "a.png") },
                "text": "see ?hm=1 /attachments/1/2/a.png",
            }])
        };
        let mut value = stored(&old);
        new.sign_anew(&[own], &mut value);
        assert_eq!(value, stored(&new));
        new.sign_anew(&[own], &mut value);
        assert_eq!(value, stored(&new));
        for foreign in [
            old.attachment_url(id(1), other, "a.png"),
            "http://here/attachments/1/2/a/b.png?hm=0".to_owned(),
            "http://here/attachments/x/2/a.png?hm=0".to_owned(),
            "http://here/avatars/1/2/a.png?hm=0".to_owned(),
        ] {
            let mut value = json!({ "url": foreign });
            new.sign_anew(&[own], &mut value);
            assert_eq!(value, json!({ "url": foreign }));
        }
    }

    #[test]
    fn names_have_no_folders_and_few_characters() {
        assert_eq!(sanitize("a b.png"), "a_b.png");
        assert_eq!(sanitize("../../etc/passwd"), "passwd");
        assert_eq!(sanitize("C:\\x\\y.txt"), "y.txt");
        assert_eq!(sanitize(".."), "file");
        assert_eq!(sanitize(""), "file");
        assert_eq!(sanitize("\0é.gif"), "__.gif");
        assert_eq!(sanitize(&format!("{}.png", "x".repeat(500))).len(), 260);
    }

    proptest::proptest! {
        #[test]
        fn no_name_makes_an_address_of_another_shape(name: String) {
            let name = sanitize(&name);
            proptest::prop_assert!(!name.is_empty() && name.len() <= FILENAME_MAX);
            proptest::prop_assert!(!name.starts_with('.') && !name.contains(['/', '\\', '?']));
        }
    }
}
