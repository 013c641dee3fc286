//! Whom events of private threads, and those for who holds a permission, reach as listeners and
//! holders come and go.

use std::time::Instant;

use guildhall_shared::{
    Permissions,
    envelope::Scope,
    gateway::EventKind,
    permissions::{Overwrite, OverwriteKind},
};
use serde_json::json;

use super::{
    holders::Holders,
    realm::Realm,
    realm_tests::{
        ALICE, EDGE, HALL, MOD, MODS, OPEN, OWNER, apply, channel, hall, id, member, resolved, role,
    },
};

/// Who hears of a private thread with one member, where there are many listeners.
fn heard_in_thread(realm: &Realm, inside: u64) -> Vec<u64> {
    let scope = Scope::Thread {
        parent: id(OPEN),
        members: vec![id(inside)],
    };
    resolved(realm, scope)
}

/// [`hall`] with a hundred members more, who listen.
fn full_hall() -> Realm {
    let mut realm = hall();
    for user in 1000..1100 {
        apply(
            &mut realm,
            EventKind::GuildMemberAdd,
            &json!(member(user, &[])),
        );
    }
    realm.subscribe(EDGE, (1000..1100).map(id));
    realm
}

fn gives_threads(target: u64, kind: OverwriteKind) -> Vec<Overwrite> {
    vec![Overwrite {
        id: id(target),
        kind,
        allow: Permissions::MANAGE_THREADS,
        deny: Permissions::empty(),
    }]
}

#[test]
fn moderators_are_few_among_many() {
    let realm = full_hall();
    let listening = (1000..1100).chain([OWNER, MOD, ALICE]).map(id);
    let moderators = Holders::new(
        realm.guild_state().unwrap(),
        Permissions::MANAGE_THREADS,
        listening,
    );
    assert_eq!(moderators.few().map(|few| few.len()), Some(1));
}

#[test]
fn who_comes_to_moderate_hears_of_private_threads_from_then_on() {
    let mut realm = full_hall();
    assert_eq!(heard_in_thread(&realm, ALICE), [OWNER, ALICE]);
    // By a role in a channel.
    let update = json!(channel(OPEN, gives_threads(MODS, OverwriteKind::Role)));
    apply(&mut realm, EventKind::ChannelUpdate, &update);
    assert_eq!(heard_in_thread(&realm, ALICE), [OWNER, MOD, ALICE]);
    // By being given that role, and while it is held.
    for (roles, heard) in [
        (vec![MODS.to_string()], vec![OWNER, MOD, ALICE, 1007]),
        (Vec::new(), vec![OWNER, MOD, ALICE]),
    ] {
        let update = json!({"user": {"id": "1007"}, "roles": roles});
        apply(&mut realm, EventKind::GuildMemberUpdate, &update);
        assert_eq!(heard_in_thread(&realm, ALICE), heard);
    }
    // By oneself, there alone.
    let update = json!(channel(OPEN, gives_threads(1042, OverwriteKind::Member)));
    apply(&mut realm, EventKind::ChannelUpdate, &update);
    assert_eq!(heard_in_thread(&realm, ALICE), [OWNER, ALICE, 1042]);
}

#[test]
fn who_listens_later_hears_and_who_left_does_not() {
    let mut realm = full_hall();
    let update = json!(channel(OPEN, gives_threads(MODS, OverwriteKind::Role)));
    apply(&mut realm, EventKind::ChannelUpdate, &update);
    apply(
        &mut realm,
        EventKind::GuildMemberAdd,
        &json!(member(2000, &[MODS])),
    );
    assert_eq!(heard_in_thread(&realm, 2001), [OWNER, MOD]);
    realm.subscribe(2, [id(2000)]);
    assert_eq!(heard_in_thread(&realm, 2001), [OWNER, MOD, 2000]);
    realm.unsubscribe(EDGE, &[id(MOD)], false);
    assert_eq!(heard_in_thread(&realm, 2001), [OWNER, 2000]);
    realm.drop_edge(Instant::now(), 2);
    assert_eq!(heard_in_thread(&realm, 2001), [OWNER]);
    // Everybody may: all who listen hear, and are not listed.
    let update = json!(channel(OPEN, gives_threads(HALL, OverwriteKind::Role)));
    apply(&mut realm, EventKind::ChannelUpdate, &update);
    assert_eq!(heard_in_thread(&realm, 2001).len(), 102);
}

#[test]
fn what_is_for_a_permission_reaches_who_comes_to_hold_it() {
    let mut realm = full_hall();
    let audit_log = || Scope::Permissions {
        any_of: Permissions::VIEW_AUDIT_LOG,
        channel: None,
    };
    assert_eq!(resolved(&realm, audit_log()), [OWNER]);
    let role = json!({"role": role(MODS, Permissions::VIEW_AUDIT_LOG)});
    apply(&mut realm, EventKind::GuildRoleUpdate, &role);
    assert_eq!(resolved(&realm, audit_log()), [OWNER, MOD]);
    let update = json!({"user": {"id": "1007"}, "roles": [MODS.to_string()]});
    apply(&mut realm, EventKind::GuildMemberUpdate, &update);
    assert_eq!(resolved(&realm, audit_log()), [OWNER, MOD, 1007]);
    // Not who has lost it since.
    let update = json!({"user": {"id": "1007"}, "roles": []});
    apply(&mut realm, EventKind::GuildMemberUpdate, &update);
    assert_eq!(resolved(&realm, audit_log()), [OWNER, MOD]);
}
