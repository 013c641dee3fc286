//! What cores have to be told, whoever of the node says it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    bus::{CoreHandle, ToCore},
    names::CoreId,
};

/// Time a core has to make room in its inbox for an answer that nobody repeats.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to put it there.
pub(super) const ANSWER_PAUSE: Duration = Duration::from_millis(5);

/// Answers a core, waiting for room; after [`ANSWER_TIMEOUT`] the client has to try again and the
/// answer comes back.
pub(crate) async fn answer(
    cores: &[CoreHandle],
    core: CoreId,
    message: ToCore,
) -> Result<(), ToCore> {
    let Some(core) = cores.get(usize::from(core)) else {
        return Err(message);
    };
    let mut message = message;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    while let Err(back) = core.send(message) {
        if Instant::now() >= deadline {
            tracing::warn!("a core takes no answers");
            return Err(back);
        }
        message = back;
        sleep(ANSWER_PAUSE).await;
    }
    Ok(())
}
