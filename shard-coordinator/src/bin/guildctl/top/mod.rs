//! `guildctl top`: the cluster live. Here is what reads and waits; `view` holds what is shown
//! and `draw` how, both without I/O.

mod draw;
mod view;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use guildhall_shared::operator::{
    GuildInfo, GuildsAnswer, Problem, ShardInfo, ShardsAnswer, Snapshot,
};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use crate::args::TopArgs;
use crate::client::{Ask, Client, Events, Told};
use crate::error::{Error, Result};
use crate::print::Output;
use view::{After, View};

/// Between two looks at the busiest shards and guilds.
const HOT_EVERY: Duration = Duration::from_secs(2);
/// How many of each are asked for.
const HOT_COUNT: usize = 20;
/// The clock on the screen moves on, also without news.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to reach a coordinator again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// News that are not shown yet; when full, who brings more waits.
const NEWS_MAX: usize = 64;

pub(crate) async fn run(client: &Client, flags: TopArgs, output: Output) -> Result<()> {
    match output {
        Output::Json => print_snapshots(client, flags.count, output).await,
        Output::Text if !io::stdout().is_terminal() => Err(Error::Usage(
            "top needs a terminal; --json prints the same to anywhere".to_owned(),
        )),
        Output::Text => {
            // Before the terminal changes: a refusal is then printed as any other.
            let events = client.events().await?;
            let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
            let outcome = show(client, events, &mut terminal).await;
            ratatui::try_restore().map_err(Error::Terminal)?;
            outcome
        }
    }
}

async fn print_snapshots(client: &Client, count: Option<u64>, output: Output) -> Result<()> {
    let mut events = client.events().await?;
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let snapshot = match events.next().await? {
            Told::State(snapshot) => snapshot,
            Told::Problem(problem) => return Err(Error::Refused(problem)),
        };
        output.print(&snapshot, |_| String::new())?;
        printed += 1;
    }
    Ok(())
}

/// What makes the screen change.
enum News {
    Key(KeyCode),
    State(Box<Snapshot>),
    Lost(Error),
    /// A coordinator has no state to show.
    Problem(Problem),
    Hot(Vec<ShardInfo>, Vec<GuildInfo>),
}

async fn show(client: &Client, events: Events, terminal: &mut DefaultTerminal) -> Result<()> {
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    read_keys(sender.clone());
    tokio::spawn(watch_hot(client.clone(), sender.clone()));
    tokio::spawn(watch_state(client.clone(), events, sender));
    let mut view = View::new();
    let mut tick = tokio::time::interval(REDRAW_EVERY);
    loop {
        terminal
            .draw(|frame| draw::screen(frame, &view, Instant::now()))
            .map_err(Error::Terminal)?;
        let news = tokio::select! {
            news = news.recv() => news,
            _ = tick.tick() => continue,
        };
        match news {
            Some(News::Key(key)) => match view.press(key) {
                After::Quit => return Ok(()),
                After::Stay => {}
            },
            Some(News::State(snapshot)) => view.arrived(*snapshot, Instant::now()),
            Some(News::Lost(error @ Error::Refused(_))) => return Err(error), // a token ran out
            Some(News::Lost(error)) => view.lost(error.to_string()),
            Some(News::Problem(problem)) => view.no_news(problem.message),
            Some(News::Hot(shards, guilds)) => {
                view.hot_shards = shards;
                view.hot_guilds = guilds;
            }
            None => return Ok(()),
        }
    }
}

/// Snapshots from whoever has them. A stream ends now and then; only one that cannot be opened
/// again is worth telling.
async fn watch_state(client: Client, events: Events, news: mpsc::Sender<News>) {
    let mut events = Some(events);
    loop {
        let told = match &mut events {
            Some(open) => match open.next().await {
                Ok(Told::State(state)) => News::State(state),
                Ok(Told::Problem(problem)) => News::Problem(problem),
                Err(_) => {
                    events = None;
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
            },
            None => match client.events().await {
                Ok(opened) => {
                    events = Some(opened);
                    continue;
                }
                Err(error) => {
                    tokio::time::sleep(RETRY_EVERY).await;
                    News::Lost(error)
                }
            },
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}

/// Failures are left to [`watch_state`] to tell.
async fn watch_hot(client: Client, news: mpsc::Sender<News>) {
    let shards = Ask::get(["shards"]).query("hot", HOT_COUNT);
    let guilds = Ask::get(["guilds"]).query("hot", HOT_COUNT);
    let mut every = tokio::time::interval(HOT_EVERY);
    loop {
        every.tick().await;
        let answers = tokio::try_join!(
            client.ask::<ShardsAnswer>(&shards),
            client.ask::<GuildsAnswer>(&guilds),
        );
        if let Ok((shards, guilds)) = answers
            && news
                .send(News::Hot(shards.shards, guilds.guilds))
                .await
                .is_err()
        {
            return;
        }
    }
}

/// Keys as they are pressed. The thread ends with the process, or with the terminal.
fn read_keys(news: mpsc::Sender<News>) {
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.kind != KeyEventKind::Press => continue,
                Event::Key(key)
                    if key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c') =>
                {
                    KeyCode::Char('q')
                }
                Event::Key(key) => key.code,
                Event::Resize(..) => KeyCode::Null, // draws again
                _ => continue,
            };
            if news.blocking_send(News::Key(key)).is_err() {
                return;
            }
        }
    });
}
