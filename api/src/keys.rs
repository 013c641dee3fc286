//! The cluster's keys as the API uses them: the current one makes, every one is accepted, and what
//! still needs the previous one is counted.
//!
//! Never renews anything itself: who stores what a key has made does.

use guildhall_shared::cluster_key::{BadClusterKey, ClusterKeys};
use prometheus::IntCounterVec;

use crate::config::{Config, Secret};

/// What a key was needed for; a label of `guildhall_api_previous_key_uses_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    OperatorToken,
    /// The proof that a second factor was shown.
    Proof,
    /// What is stored of a second factor.
    SecondFactor,
    /// An address of an attachment that a client holds.
    Attachment,
    UploadSlot,
    /// An interaction that its endpoint took only with the application's previous key.
    Interaction,
}

impl Use {
    const ALL: [Self; 6] = [
        Self::OperatorToken,
        Self::Proof,
        Self::SecondFactor,
        Self::Attachment,
        Self::UploadSlot,
        Self::Interaction,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::OperatorToken => "operator_token",
            Self::Proof => "second_factor_proof",
            Self::SecondFactor => "second_factor",
            Self::Attachment => "attachment",
            Self::UploadSlot => "upload_slot",
            Self::Interaction => "interaction",
        }
    }
}

/// The cluster's keys; none is ever printed.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) current: Secret,
    next: Option<Secret>,
    pub(crate) previous: Option<Secret>,
    uses: Option<IntCounterVec>,
}

impl Keys {
    /// Those of the settings; `uses` counts what needs the previous one, by [`Use`].
    ///
    /// Errors: a key that is too short, or the same as another.
    pub(crate) fn new(config: &Config, uses: IntCounterVec) -> Result<Self, BadClusterKey> {
        let keys = ClusterKeys::check(
            config.cluster_key.reveal(),
            config.cluster_key_next.as_ref().map(Secret::reveal),
            config.cluster_key_previous.as_ref().map(Secret::reveal),
        )?;
        let owned = |key: &str| Secret::from(key.to_owned());
        let keys = Self {
            current: owned(keys.current),
            next: keys.next.map(owned),
            previous: keys.previous.map(owned),
            uses: Some(uses.clone()),
        };
        if keys.previous.is_some() {
            // So that they are there, with 0, before the first one.
            for each in Use::ALL {
                uses.with_label_values(&[each.name()]);
            }
        }
        Ok(keys)
    }

    /// One key alone.
    pub(crate) fn only(current: Secret) -> Self {
        Self {
            current,
            next: None,
            previous: None,
            uses: None,
        }
    }

    /// Those that are there when the previous one is gone.
    pub(crate) fn lasting(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(&self.next)
    }

    /// Those that are accepted, the current one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Secret> {
        self.lasting().chain(&self.previous)
    }

    /// What the first key that fits makes of it, and that key.
    pub(crate) fn find<T>(
        &self,
        mut fits: impl FnMut(&Secret) -> Option<T>,
    ) -> Option<(&Secret, T)> {
        self.all().find_map(|key| Some((key, fits(key)?)))
    }

    /// As [`Self::find`]; counts if it is the previous key.
    pub(crate) fn first<T>(
        &self,
        what: Use,
        fits: impl FnMut(&Secret) -> Option<T>,
    ) -> Option<(&Secret, T)> {
        let (key, found) = self.find(fits)?;
        self.note(what, key);
        Some((key, found))
    }

    /// Counts a use of this key if it is the previous one.
    pub(crate) fn note(&self, what: Use, key: &Secret) {
        if self.is_previous(key)
            && let Some(uses) = &self.uses
        {
            uses.with_label_values(&[what.name()]).inc();
        }
    }

    pub(crate) fn is_previous(&self, key: &Secret) -> bool {
        self.previous.as_ref() == Some(key)
    }
}

#[cfg(test)]
impl Keys {
    /// Of a process in the middle of a renewal.
    pub(crate) fn renewing(current: &str, next: Option<&str>, previous: Option<&str>) -> Self {
        let owned = |key: &str| Secret::from(key.to_owned());
        Self {
            current: owned(current),
            next: next.map(owned),
            previous: previous.map(owned),
            uses: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[derive(clap::Parser)]
    struct Settings {
        #[command(flatten)]
        config: Config,
    }

    fn uses() -> IntCounterVec {
        IntCounterVec::new(Opts::new("uses", "uses"), &["what"]).unwrap()
    }

    /// Of a process that was started with these settings.
    fn keys(more: &[&str]) -> Result<Keys, BadClusterKey> {
        let given = [
            "test",
            "--database-url=d",
            "--redis-url=r",
            "--gateway-url=ws://127.0.0.1:1",
            "--cluster-key=a cluster key for tests, long enough",
        ];
        let given = given.into_iter().chain(more.iter().copied());
        let settings: Settings = clap::Parser::parse_from(given);
        Keys::new(&settings.config, uses())
    }

    #[test]
    fn a_bad_key_beside_the_current_one_is_refused_by_name() {
        for (setting, name) in [
            ("--cluster-key-next=", "CLUSTER_KEY_NEXT: "),
            ("--cluster-key-previous=", "CLUSTER_KEY_PREVIOUS: "),
        ] {
            for bad in ["short", "a cluster key for tests, long enough"] {
                let error = keys(&[&format!("{setting}{bad}")]).unwrap_err().to_string();
                assert!(error.starts_with(name), "{error}");
                assert!(!error.contains("long enough"), "{error}");
            }
            assert_eq!(keys(&[setting]).unwrap().all().count(), 1);
            let other = format!("{setting}another cluster key for tests, as long");
            assert_eq!(keys(&[&other]).unwrap().all().count(), 2);
        }
    }

    #[test]
    fn every_use_is_among_the_values_of_its_label() {
        let mut labels = crate::telemetry::LABELS.iter();
        let (_, values) = labels.find(|(label, _)| *label == "what").unwrap();
        for each in Use::ALL {
            assert!(values.contains(&format!("`{}`", each.name())), "{each:?}");
        }
    }

    #[test]
    fn the_current_key_comes_first_and_uses_of_the_previous_one_are_counted() {
        let uses = uses();
        let mut keys = Keys::renewing("current", Some("next"), Some("previous"));
        keys.uses = Some(uses.clone());
        let used = |what: Use| uses.with_label_values(&[what.name()]).get();
        let first = |wanted: &[&str]| {
            let found = keys.first(Use::Attachment, |key| {
                wanted.contains(&key.reveal()).then_some(())
            });
            found.map(|(key, ())| key.reveal())
        };
        assert_eq!(first(&["previous", "next", "current"]), Some("current"));
        assert_eq!(first(&["previous", "next"]), Some("next"));
        assert_eq!(first(&["strange"]), None);
        assert_eq!(used(Use::Attachment), 0);
        assert_eq!(first(&["previous"]), Some("previous"));
        assert_eq!((used(Use::Attachment), used(Use::Proof)), (1, 0));
        let printed = format!("{:?}", Keys::renewing("hunter2", Some("hunter2"), None));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
