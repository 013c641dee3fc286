//! Reactions, and how they are removed.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World, at};

const THUMB: &str = "%F0%9F%91%8D";

pub(super) async fn prove(world: &World, book: &mut Book) {
    reactions(world, book).await;
    reaction_removals(world, book).await;
}

async fn reactions(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let message = bot.account.say(&guild.lobby, "react").await;
    let path = format!("/channels/{}/messages/{message}/reactions", guild.lobby);
    book.prove("add_my_message_reaction", async |p: &mut Proof| {
        p.answers(
            member
                .rest
                .put(&format!("{path}/{THUMB}/@me"), &json!({}))
                .await,
        );
        let is_it = |d: &Value| d["message_id"] == message.as_str() && d["emoji"]["name"] == "👍";
        let event = p.event(&[owner, bot], "MESSAGE_REACTION_ADD", is_it).await;
        p.acts(
            event["member"]["user"]["id"] == member.id.as_str(),
            "the event names the member",
        );
        p.nobody_else(&[stranger], "MESSAGE_REACTION_ADD", is_it)
            .await;
        let one = format!("/channels/{}/messages/{message}", guild.lobby);
        let read = member.rest.get(&one).await.body;
        p.acts(
            read["reactions"][0]["count"] == 1 && read["reactions"][0]["me"] == true,
            "it is counted",
        );
        let gone = format!(
            "/channels/{}/messages/{NOTHING}/reactions/{THUMB}/@me",
            guild.lobby
        );
        p.refuses(member.rest.put(&gone, &json!({})).await, 404, 10008);
        p.refuses(
            member
                .rest
                .put(&format!("{path}/nonsense/@me"), &json!({}))
                .await,
            400,
            10014,
        );
        p.refuses(
            stranger
                .rest
                .put(&format!("{path}/{THUMB}/@me"), &json!({}))
                .await,
            403,
            50001,
        );
    })
    .await;
    book.prove("list_message_reactions_by_emoji", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&format!("{path}/{THUMB}")).await);
        p.acts(list[0]["id"] == member.id.as_str(), "the user is listed");
        p.faults(
            bot.rest.get(&format!("{path}/{THUMB}?limit=0")).await,
            "limit",
            "NUMBER_TYPE_MIN",
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/{THUMB}")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("delete_my_message_reaction", async |p: &mut Proof| {
        p.answers(member.rest.delete(&format!("{path}/{THUMB}/@me")).await);
        p.event(&[owner, bot], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        let list = bot.rest.get(&format!("{path}/{THUMB}")).await.body;
        p.acts(list == json!([]), "nobody is listed any more");
        p.refuses(
            stranger.rest.delete(&format!("{path}/{THUMB}/@me")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("reaction_delete_typed", async |p: &mut Proof| {
        member
            .rest
            .put(&format!("{path}/{THUMB}/@me"), &json!({}))
            .await
            .ok();
        p.answers(member.rest.delete(&format!("{path}/{THUMB}/0/@me")).await);
        let list = bot.rest.get(&format!("{path}/{THUMB}")).await.body;
        p.acts(list == json!([]), "nobody is listed any more");
        p.refuses(
            stranger.rest.delete(&format!("{path}/{THUMB}/0/@me")).await,
            403,
            50001,
        );
    })
    .await;
}

async fn reaction_removals(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let message = bot.account.say(&guild.lobby, "react again").await;
    let path = format!("/channels/{}/messages/{message}/reactions", guild.lobby);
    let react = async || {
        member
            .rest
            .put(&format!("{path}/{THUMB}/@me"), &json!({}))
            .await
            .ok();
    };
    let left = async || bot.rest.get(&format!("{path}/{THUMB}")).await.body;
    book.prove("delete_user_message_reaction", async |p: &mut Proof| {
        react().await;
        let one = format!("{path}/{THUMB}/{}", member.id);
        p.answers(bot.rest.delete(&one).await);
        p.acts(left().await == json!([]), "it is gone");
        p.event(&[owner, member], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.refuses(
            member
                .rest
                .delete(&format!("{path}/{THUMB}/{}", bot.id))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove("reaction_delete_typed_user", async |p: &mut Proof| {
        react().await;
        p.answers(
            owner
                .rest
                .delete(&format!("{path}/{THUMB}/0/{}", member.id))
                .await,
        );
        p.acts(left().await == json!([]), "it is gone");
        p.refuses(
            member
                .rest
                .delete(&format!("{path}/{THUMB}/0/{}", bot.id))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove(
        "delete_all_message_reactions_by_emoji",
        async |p: &mut Proof| {
            react().await;
            p.answers(bot.rest.delete(&format!("{path}/{THUMB}")).await);
            p.acts(left().await == json!([]), "they are gone");
            p.event(
                &[owner, member],
                "MESSAGE_REACTION_REMOVE_EMOJI",
                at(&message),
            )
            .await;
            p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE_EMOJI", at(&message))
                .await;
            p.refuses(
                member.rest.delete(&format!("{path}/{THUMB}")).await,
                403,
                50013,
            );
        },
    )
    .await;
    book.prove("delete_all_message_reactions", async |p: &mut Proof| {
        react().await;
        p.answers(bot.rest.delete(&path).await);
        p.acts(left().await == json!([]), "they are gone");
        p.event(
            &[owner, member],
            "MESSAGE_REACTION_REMOVE_ALL",
            at(&message),
        )
        .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE_ALL", at(&message))
            .await;
        p.refuses(member.rest.delete(&path).await, 403, 50013);
    })
    .await;
}
