//! The operations of tiers 1 and 2, as `conformance/operations.tsv` lists them.

use std::sync::LazyLock;

/// One row.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: &'static str,
    /// Below `/api/v10`, with its parameters in braces.
    pub path: &'static str,
    pub id: &'static str,
    pub tier: u8,
    /// In the official OpenAPI document.
    pub official: bool,
    pub auth: &'static str,
    /// The statuses of success.
    pub success: Vec<u16>,
}

impl Operation {
    /// Whether a call without a token is answered 401.
    pub fn needs_token(&self) -> bool {
        !self.auth.starts_with("none")
    }

    pub fn find(id: &str) -> Option<&'static Self> {
        OPERATIONS.iter().find(|operation| operation.id == id)
    }
}

pub static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let rows = include_str!("../../conformance/operations.tsv");
    rows.lines().skip(1).filter_map(parse).collect()
});

fn parse(row: &'static str) -> Option<Operation> {
    let columns: Vec<&str> = row.split('\t').collect();
    let &[method, path, id, tier, source, auth, success, _] = columns.as_slice() else {
        return None;
    };
    Some(Operation {
        method,
        path,
        id,
        tier: tier.parse().ok()?,
        official: source == "openapi",
        auth,
        success: statuses(success),
    })
}

/// `200:Message / 204`: each part begins with its status.
fn statuses(text: &str) -> Vec<u16> {
    text.split('/')
        .filter_map(|part| part.trim().get(..3)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read() {
        let official = OPERATIONS.iter().filter(|operation| operation.official);
        assert_eq!((official.count(), OPERATIONS.len()), (201, 285));
        assert!(
            OPERATIONS
                .iter()
                .all(|operation| !operation.success.is_empty())
        );
        assert_eq!(statuses("200:Message|Thread / 204"), [200, 204]);
    }
}
