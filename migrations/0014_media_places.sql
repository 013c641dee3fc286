-- Images of what later migrations brought: see 0007_media.sql.

-- A webhook's avatar is served like a user's: its messages' author has its id.
select media_follow_column('webhook', 'avatars/{webhook_id}', 'avatar');
select media_follow_column('scheduled_event', 'guild-events/{event_id}', 'image');

-- A group DM's picture.
select media_follow_column('channel', 'channel-icons/{channel_id}', 'icon');

-- Served with the application's icons.
select media_follow_column('application', 'app-icons/{application_id}', 'settings.cover_image');
