//! Work on one row after the other, as rounds of housekeeping do it.

use crate::error::Result;

/// Rows that fail before a step is given up.
const FAILURES_MAX: u32 = 10;

/// What became of the rows of a step, one after the other: one that fails holds up no other. Many
/// that do are not to blame themselves.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    failed: u32,
}

impl Rows {
    /// Errors: the row's, if too many have failed: then the step is over.
    pub(crate) fn done(&mut self, row: Result<()>) -> Result<()> {
        let Err(error) = row else { return Ok(()) };
        self.failed += 1;
        if self.failed >= FAILURES_MAX {
            return Err(error);
        }
        tracing::warn!(
            ?error,
            "housekeeping failed with one row; the next round tries again"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_step_goes_on_after_few_failures_and_not_after_many() {
        let mut rows = Rows::default();
        let failed = || Err(Error::Internal("no".to_owned()));
        for _ in 1..FAILURES_MAX {
            rows.done(failed()).unwrap();
            rows.done(Ok(())).unwrap();
        }
        rows.done(failed()).unwrap_err();
    }
}
