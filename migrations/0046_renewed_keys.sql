-- CLUSTER_KEY can be renewed. What an account has of a second factor is then sealed anew: the secret
-- of the authenticator, and the backup codes, which were derived from the key of before.
alter table account_mfa
    -- Which key sealed this row, as the API names keys; null: written by older code.
    add column sealed_with bytea,
    -- Sealed: backup_salt and the codes that belong to it. Null, or of another salt: they are
    -- derived, as 0010_accounts.sql says, from the key that sealed totp_secret.
    add column backup_kept bytea;
