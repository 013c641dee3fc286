//! Clusters in the hands of tests.

use std::{
    sync::{Arc, Weak},
    thread,
};

use super::{Cluster, Options};

/// A cluster that the tests of a file share: started by the first, stopped after the last that
/// runs at the time.
#[derive(Debug)]
pub struct Shared {
    slot: tokio::sync::Mutex<Weak<Cluster>>,
    options: Options,
}

impl Shared {
    pub const fn new(options: Options) -> Self {
        Self {
            slot: tokio::sync::Mutex::const_new(Weak::new()),
            options,
        }
    }

    /// # Panics
    /// If the cluster does not start.
    pub async fn cluster(&self) -> Use {
        let mut slot = self.slot.lock().await;
        let cluster = match slot.upgrade() {
            Some(cluster) => cluster,
            None => {
                let cluster = Arc::new(started(self.options).await);
                *slot = Arc::downgrade(&cluster);
                cluster
            }
        };
        Use(cluster)
    }
}

/// A cluster in use by one test; shows the servers' logs if the test fails.
#[derive(Debug)]
pub struct Use(Arc<Cluster>);

impl Use {
    /// A cluster for one test alone.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn own(options: Options) -> Self {
        Self(Arc::new(started(options).await))
    }
}

impl std::ops::Deref for Use {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.show_logs();
        }
    }
}

async fn started(options: Options) -> Cluster {
    match Cluster::start(options).await {
        Ok(cluster) => cluster,
        Err(error) => panic!("the cluster does not start: {error:#}"),
    }
}
