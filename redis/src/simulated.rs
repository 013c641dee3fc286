//! A single server that is an object of this process: for simulations, which give it.

use std::{fmt, pin::Pin, sync::Arc};

use redis::{Cmd, Pipeline, PushInfo, RedisFuture, RedisResult, Value};

/// The words of a command.
pub type Words<'a> = Vec<&'a [u8]>;

/// What hears of pushes.
pub type Pushed = Box<dyn Fn(PushInfo) + Send + Sync>;

/// Answers that will be there.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = RedisResult<T>> + Send + 'a>>;

/// See the module.
pub trait Server: Send + Sync {
    /// Answers commands that were sent together, in their order. `line`: the number of the
    /// connection, if it is one with pushes. Errors: it does not answer, or refuses one of them.
    fn ask<'a>(
        self: Arc<Self>,
        line: Option<u64>,
        commands: Vec<Words<'a>>,
    ) -> Asked<'a, Vec<Value>>;

    /// Lets a connection with pushes in; its number.
    fn let_in(self: Arc<Self>, pushed: Pushed) -> Asked<'static, u64>;

    /// Nobody has this connection any more.
    fn left(&self, line: u64);
}

/// The way to a server. Cheap to clone.
#[derive(Clone)]
pub struct Way(pub Arc<dyn Server>);

/// A connection with pushes. Cheap to clone.
#[derive(Clone)]
pub struct Line(Arc<Open>);

struct Open {
    way: Way,
    number: u64,
}

impl Way {
    pub(crate) async fn line(self, pushed: Pushed) -> RedisResult<Line> {
        let number = self.0.clone().let_in(pushed).await?;
        Ok(Line(Arc::new(Open { way: self, number })))
    }

    pub(crate) fn command<'a>(
        &self,
        line: Option<u64>,
        command: &'a Cmd,
    ) -> RedisFuture<'a, Value> {
        let asked = self.0.clone().ask(line, vec![words(command)]);
        Box::pin(async move { Ok(asked.await?.pop().unwrap_or_default()) })
    }

    pub(crate) fn pipeline<'a>(
        &self,
        line: Option<u64>,
        pipeline: &'a Pipeline,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0
            .clone()
            .ask(line, pipeline.cmd_iter().map(words).collect())
    }
}

impl Line {
    pub(crate) fn command<'a>(&self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.way.command(Some(self.0.number), command)
    }

    pub(crate) fn pipeline<'a>(&self, pipeline: &'a Pipeline) -> RedisFuture<'a, Vec<Value>> {
        self.0.way.pipeline(Some(self.0.number), pipeline)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.way.0.left(self.number);
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

fn words(command: &Cmd) -> Words<'_> {
    let words = command.args_iter();
    words
        .map(|word| match word {
            redis::Arg::Simple(word) => word,
            // The cursor of a scan, which begins.
            _ => b"0".as_slice(),
        })
        .collect()
}
