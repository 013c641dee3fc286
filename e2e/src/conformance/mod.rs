//! How much of the protocol is there, operation by operation, on a running cluster.
//!
//! For each operation of `conformance/operations.tsv` three things are asked:
//! **answers**: a valid request gets a documented status and a body that the official schema
//! takes and that libraries read; **acts**: a following read shows the effect, and its event
//! reaches those who may see it and nobody else; **refuses**: 401, 403, 404 and 400 as specified.
//!
//! A case is one call of [`Book::prove`] in the file of its area:
//!
//! ```ignore
//! let [owner, member, stranger, bot] = world.people();
//! let guild = &world.guild;
//! book.prove("create_channel_invite", async |p: &mut Proof| {
//!     let invites = format!("/channels/{}/invites", guild.lobby);
//!     let invite = p.answers(owner.rest.post(&invites, &json!({"max_uses": 3})).await);
//!     let list = owner.rest.get(&invites).await.body;
//!     p.acts(list[0]["code"] == invite["code"], "the invite is listed");
//!     p.event(&[bot], "INVITE_CREATE", |d| d["code"] == invite["code"]).await;
//!     p.nobody_else(&[member, stranger], "INVITE_CREATE", |d| d["code"] == invite["code"]).await;
//!     p.refuses(stranger.rest.post(&invites, &json!({})).await, 403, 50001);
//!     p.faults(owner.rest.post(&invites, &json!({"max_uses": 999})).await, "max_uses", "NUMBER_TYPE_MAX");
//! }).await;
//! ```
//!
//! 401 without a token is asked of every operation that needs one, by the book itself; where
//! nothing else is to be refused, the case says `p.refuses_no_more()`. A case
//! may be proved in several calls: their checks add up. A panic in a case fails it, no other.

mod accounts;
mod applications;
mod book;
mod causes;
mod clients;
mod credentials;
mod events;
mod guilds;
mod media;
mod members;
mod messages;
mod moderation;
mod operations;
mod places;
mod witnesses;
mod world;

pub use self::{
    book::{Book, Proof, Verdict},
    events::{EVENTS, Event, EventBook},
    operations::{OPERATIONS, Operation},
    world::{Person, Place, World},
};
use crate::cluster::{Cluster, Options};

/// An id that nothing has.
const NOTHING: &str = "100000000000000001";

/// What the cases run against: mails are read from its log.
pub const OPTIONS: Options = Options {
    mail_to_log: true,
    ..Options::SMALL
};

/// Runs every case.
pub async fn run(cluster: &Cluster) -> Book {
    let world = World::build(cluster).await;
    let mut book = Book::default();
    let begun = world.witnesses.begin(&world).await;
    book.ask_without_token(&cluster.rest(0)).await;
    places::prove(&world, &mut book).await;
    messages::prove(&world, &mut book).await;
    media::prove(&world, &mut book).await;
    members::prove(&world, &mut book).await;
    moderation::prove(&world, &mut book).await;
    applications::prove(&world, &mut book).await;
    guilds::prove(&world, &mut book).await;
    credentials::prove(&world, &mut book).await;
    causes::prove(&world, &mut book.events).await;
    world
        .witnesses
        .testify(&world, &begun, &mut book.events)
        .await;
    // Last: it ends accounts.
    accounts::prove(&world, &mut book).await;
    witnesses::libraries(&world, &mut book.events);
    book.note_wire_faults(&world);
    book
}
