-- Moderation: audit log, when members were last seen, automod rules.

-- Kept 45 days. No foreign keys: entries outlive what they tell of, and those of a
-- deleted guild, which nobody can ask for, go by age like the others.
create table audit_entry (
    entry_id  bigint primary key,
    guild_id  bigint not null,
    -- shared/src/model/audit.rs
    action    smallint not null,
    -- Null: the server itself.
    user_id   bigint,
    target_id bigint,
    -- [{"key","old_value","new_value"}], as on the wire.
    changes   jsonb not null default '[]',
    -- Strings by name; empty for none.
    options   jsonb not null default '{}',
    reason    text
);
create index audit_entry_guild_idx on audit_entry (guild_id, entry_id);
create index audit_entry_user_idx on audit_entry (guild_id, user_id, entry_id);
create index audit_entry_target_idx on audit_entry (guild_id, target_id, entry_id);
create index audit_entry_action_idx on audit_entry (guild_id, action, entry_id);
