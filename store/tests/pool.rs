//! Connections that the network has swallowed.

use std::time::{Duration, Instant};

use guildhall_store::pool::{self, Patience};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

const PATIENCE: Patience = Patience {
    connection: Duration::from_secs(3),
    statement: Duration::from_secs(1),
};

/// A way to Postgres on which the connections that there are can be cut: neither end is told.
struct Way {
    port: u16,
    cut: watch::Sender<()>,
}

impl Way {
    async fn to(postgres: &PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let target = (postgres.get_host().to_owned(), postgres.get_port());
        let cut = watch::Sender::new(());
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (mut cut, target) = (cuts.subscribe(), target.clone());
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(target).await.expect("Postgres is there");
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = cut.changed() => std::future::pending::<()>().await,
                    }
                });
            }
        });
        Self { port, cut }
    }

    fn cut(&self) {
        self.cut.send_replace(());
    }

    /// A pool of one connection over it.
    fn pool(&self, postgres: PgConnectOptions) -> PgPool {
        pool::open(postgres.host("127.0.0.1").port(self.port), 1, PATIENCE)
    }
}

async fn one(db: &PgPool) -> sqlx::Result<i32> {
    sqlx::query_scalar("select 1").fetch_one(db).await
}

#[sqlx::test(migrations = "../migrations")]
async fn a_query_that_is_cut_off_costs_its_connection_and_no_more(
    _options: PgPoolOptions,
    postgres: PgConnectOptions,
) {
    let way = Way::to(&postgres).await;
    let db = way.pool(postgres);
    assert_eq!(one(&db).await.expect("an answer"), 1);
    let late = sqlx::query("select pg_sleep(0.5)").execute(&db);
    let cut = async {
        sleep(Duration::from_millis(100)).await;
        way.cut();
    };
    let (late, ()) = tokio::join!(timeout(Duration::from_secs(1), late), cut);
    assert!(late.is_err(), "answered over a cut connection: {late:?}");
    let began = Instant::now();
    while let Err(error) = one(&db).await {
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_connection_that_was_cut_while_idle_is_replaced_at_once(
    _options: PgPoolOptions,
    postgres: PgConnectOptions,
) {
    let way = Way::to(&postgres).await;
    let db = way.pool(postgres);
    for _ in 0..3 {
        assert_eq!(one(&db).await.expect("an answer"), 1);
        sleep(Duration::from_millis(300)).await;
        way.cut();
    }
}

/// What nobody waits for any longer is ended by Postgres, and its connection is used again.
#[sqlx::test(migrations = "../migrations")]
async fn a_statement_that_is_given_up_keeps_its_connection(
    _options: PgPoolOptions,
    postgres: PgConnectOptions,
) {
    let way = Way::to(&postgres).await;
    let db = way.pool(postgres);
    let pid = || sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&db);
    let before = pid().await.expect("an answer");
    let late = sqlx::query("select pg_sleep(30)").execute(&db);
    assert!(timeout(Duration::from_millis(200), late).await.is_err());
    assert_eq!(pid().await.expect("an answer"), before);
}
