//! A map for what nearly always holds one entry: a user's own realm has one node, one core, one
//! user. The only entry lies in the map itself, without a node or a table around it.

use std::collections::BTreeMap;

/// Sorted by key, as a `BTreeMap`; allocates from the second entry on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Few<K, V> {
    #[default]
    None,
    One(K, V),
    Many(Box<BTreeMap<K, V>>),
}

impl<K: Ord, V> Few<K, V> {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(map) => map.len(),
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::One(known, value) if known == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Many(map) => map.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::One(known, value) if known == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Many(map) => map.get_mut(key),
        }
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value before, if there was one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::One(known, old) if *known == key => Some(std::mem::replace(old, value)),
            Self::Many(map) => map.insert(key, value),
            Self::None => {
                *self = Self::One(key, value);
                None
            }
            Self::One(..) => {
                if let Self::One(first, old) = std::mem::take(self) {
                    *self = Self::Many(Box::new(BTreeMap::from([(first, old), (key, value)])));
                }
                None
            }
        }
    }

    /// The value of a key, put there first if it has none.
    pub fn or_default(&mut self, key: K) -> &mut V
    where
        K: Copy,
        V: Default,
    {
        if !self.contains_key(&key) {
            self.insert(key, V::default());
        }
        self.get_mut(&key).expect("was put there if it was missing")
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::One(known, _) if known == key => match std::mem::take(self) {
                Self::One(_, value) => Some(value),
                Self::None | Self::Many(_) => None,
            },
            Self::None | Self::One(..) => None,
            Self::Many(map) => {
                let removed = map.remove(key);
                if map.len() <= 1 {
                    *self = match map.pop_first() {
                        Some((key, value)) => Self::One(key, value),
                        None => Self::None,
                    };
                }
                removed
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(key, value) => (Some((key, value)), None),
            Self::Many(map) => (None, Some(map.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(key, value) => (Some((&*key, value)), None),
            Self::Many(map) => (None, Some(map.iter_mut())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_map_that_it_stands_for(
            steps in prop::collection::vec((0u8..4, any::<u16>(), 0u8..4), 0..40),
        ) {
            let (mut few, mut map) = (Few::default(), BTreeMap::new());
            for (key, value, what) in steps {
                match what {
                    0 => prop_assert_eq!(few.remove(&key), map.remove(&key)),
                    1 => {
                        *few.or_default(key) = value;
                        map.insert(key, value);
                    }
                    2 => few.values_mut().zip(map.values_mut()).for_each(|(a, b)| {
                        *a = a.wrapping_add(value);
                        *b = b.wrapping_add(value);
                    }),
                    _ => prop_assert_eq!(few.insert(key, value), map.insert(key, value)),
                }
                prop_assert!(few.iter().eq(map.iter()));
                prop_assert!(few.keys().eq(map.keys()));
                prop_assert_eq!(few.len(), map.len());
                prop_assert_eq!(few.is_empty(), map.is_empty());
                prop_assert_eq!(few.get(&key), map.get(&key));
                prop_assert_eq!(few.contains_key(&2), map.contains_key(&2));
                prop_assert_eq!(matches!(few, Few::Many(_)), map.len() > 1);
            }
        }
    }
}
