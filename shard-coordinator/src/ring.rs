//! The consistent-hash ring: proposes an order of nodes for every shard. Owns the pinned
//! hash; never knows loads, limits or where a shard is now.

use std::hash::{BuildHasher, Hash, Hasher};

use guildhall_shared::shard::ShardId;
use hashring::HashRing;

/// A node's place in the list the ring was built from.
pub(crate) type Place = u16;

/// Virtual nodes of a node of weight 1. More of them would even out the proposal, which the
/// bounded load of `placement` does anyway.
const POINTS_PER_WEIGHT: u64 = 64;

/// Points of a node of this weight, given in thousandths; at least one.
fn points(weight_milli: u32) -> u32 {
    let points = (u64::from(weight_milli) * POINTS_PER_WEIGHT).div_ceil(1000);
    u32::try_from(points.max(1)).unwrap_or(u32::MAX)
}

/// Virtual nodes of all nodes, in hash order.
pub(crate) struct Ring<'a> {
    points: HashRing<Point<'a>, PinnedHash>,
}

impl<'a> Ring<'a> {
    /// Builds the ring of `(place, node id, weight in thousandths)`. The order of the nodes
    /// decides between equal hashes, so callers pass them in the order of their ids.
    pub(crate) fn new(nodes: impl IntoIterator<Item = (Place, &'a str, u32)>) -> Self {
        let mut all = Vec::new();
        for (place, id, weight_milli) in nodes {
            all.extend((0..points(weight_milli)).map(|replica| Point { place, id, replica }));
        }
        let mut points = HashRing::with_hasher(PinnedHash);
        points.batch_add(all); // sorts once
        Self { points }
    }

    /// The node a shard falls to at this attempt; `None` on an empty ring.
    pub(crate) fn get(&self, shard: ShardId, attempt: u32) -> Option<Place> {
        self.points
            .get(&Key { shard, attempt })
            .map(|point| point.place)
    }
}

/// One virtual node. Only its id and replica are hashed: places change with every join.
struct Point<'a> {
    place: Place,
    id: &'a str,
    replica: u32,
}

impl Hash for Point<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"node");
        state.write(self.id.as_bytes());
        state.write(&[0]);
        state.write(&self.replica.to_le_bytes());
    }
}

/// What is looked up: each attempt is a place of its own on the ring.
struct Key {
    shard: ShardId,
    attempt: u32,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"shard");
        state.write(&self.shard.0.to_le_bytes());
        state.write(&self.attempt.to_le_bytes());
    }
}

/// Builds [`PinnedHasher`]s.
#[derive(Clone)]
struct PinnedHash;

impl BuildHasher for PinnedHash {
    type Hasher = PinnedHasher;

    fn build_hasher(&self) -> PinnedHasher {
        PinnedHasher(0xcbf2_9ce4_8422_2325)
    }
}

/// FNV-1a over the bytes, then the finaliser of MurmurHash3, since FNV mixes its high bits
/// badly on short keys. Written out here because std's hashers may change with the compiler,
/// and a changed hash would move every shard of every cluster.
struct PinnedHasher(u64);

impl Hasher for PinnedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(value: impl Hash) -> u64 {
        PinnedHash.hash_one(value)
    }

    fn node(id: &str, replica: u32) -> u64 {
        let place = 7; // not part of the hash
        hash(Point { place, id, replica })
    }

    fn key(shard: u16, attempt: u32) -> u64 {
        let shard = ShardId(shard);
        hash(Key { shard, attempt })
    }

    /// Computed by another implementation of the same hash. A change here moves the shards of
    /// every running cluster.
    #[test]
    fn the_hash_is_the_one_of_running_clusters() {
        assert_eq!(node("gateway-1", 0), 0xa5a3_457d_3cc1_481c);
        assert_eq!(node("gateway-1", 63), 0xa73d_1af1_aa0b_1a4c);
        assert_eq!(node("gateway-2", 0), 0xcf74_650d_23ea_f570);
        assert_eq!(node("", 0), 0x930c_63db_d56f_d8bc);
        assert_eq!(key(0, 0), 0x11b1_a106_bb6d_5457);
        assert_eq!(key(0, 1), 0x2fd2_b631_1abe_6f8b);
        assert_eq!(key(4095, 0), 0x53a6_7860_0731_c741);
        assert_eq!(key(16383, 7), 0x5f1e_3c15_e8ae_7449);
    }

    #[test]
    fn an_empty_ring_proposes_nobody() {
        assert_eq!(Ring::new([]).get(ShardId(0), 0), None);
    }

    #[test]
    fn the_proposal_follows_the_weights_roughly() {
        let ring = Ring::new([(0, "a", 1000), (1, "b", 1000), (2, "c", 2000)]);
        let mut hits = [0u32; 3];
        for shard in 0..4096 {
            let place = ring.get(ShardId(shard), 0).expect("the ring has nodes");
            hits[usize::from(place)] += 1;
        }
        assert!((700..1400).contains(&hits[0]), "{hits:?}");
        assert!((700..1400).contains(&hits[1]), "{hits:?}");
        assert!((1500..2600).contains(&hits[2]), "{hits:?}");
    }

    #[test]
    fn a_leaving_node_changes_only_its_own_proposals() {
        let all = Ring::new([(0, "a", 1000), (1, "b", 1000), (2, "c", 1000)]);
        let without = Ring::new([(0, "a", 1000), (2, "c", 1000)]);
        for shard in (0..4096).map(ShardId) {
            let before = all.get(shard, 0);
            if before != Some(1) {
                assert_eq!(without.get(shard, 0), before);
            }
        }
    }

    #[test]
    fn the_lightest_node_still_has_a_point() {
        assert_eq!(points(0), 1);
        assert_eq!(points(1), 1);
        assert_eq!(points(1000), 64);
    }
}
