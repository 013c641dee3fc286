//! Rows in the binary form of COPY, which stores whole pages of rows at once: for Postgres half
//! the work of an INSERT of the same rows.
//!
//! The types are those of the columns: what Postgres reads is as long as it says, or refused.

use bytes::BufMut;
use sqlx::PgConnection;
use time::{OffsetDateTime, macros::datetime};

/// What times are counted from.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);
/// What stands before the rows: the form's name, no flags, nothing else.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands after them.
const END: i16 = -1;
/// The number of the type `bigint`.
const BIGINT: i32 = 20;

/// Rows being written.
#[derive(Debug)]
pub(super) struct Rows(Vec<u8>);

impl Rows {
    pub(super) fn new(bytes: usize) -> Self {
        let mut rows = Vec::with_capacity(HEAD.len() + bytes);
        rows.extend_from_slice(HEAD);
        Self(rows)
    }

    /// Begins a row of so many columns; as many values follow.
    pub(super) fn row(&mut self, columns: i16) {
        self.0.put_i16(columns);
    }

    pub(super) fn smallint(&mut self, value: i16) {
        self.0.put_i32(2);
        self.0.put_i16(value);
    }

    pub(super) fn integer(&mut self, value: i32) {
        self.0.put_i32(4);
        self.0.put_i32(value);
    }

    pub(super) fn bigint(&mut self, value: i64) {
        self.0.put_i32(8);
        self.0.put_i64(value);
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.0.put_i32(1);
        self.0.put_u8(value.into());
    }

    /// Text, or bytes.
    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.with(|out| out.put_slice(value));
    }

    pub(super) fn null(&mut self) {
        self.0.put_i32(-1);
    }

    pub(super) fn jsonb(&mut self, text: &str) {
        self.with(|out| {
            out.put_u8(1); // the form's version
            out.put_slice(text.as_bytes());
        });
    }

    pub(super) fn timestamptz(&mut self, at: OffsetDateTime) {
        self.bigint((at - EPOCH).whole_microseconds() as i64);
    }

    pub(super) fn bigints(&mut self, values: impl ExactSizeIterator<Item = i64>) {
        self.with(|out| {
            let count = values.len() as i32;
            out.put_i32(i32::from(count > 0)); // dimensions
            out.put_i32(0); // no nulls
            out.put_i32(BIGINT);
            if count > 0 {
                out.put_i32(count);
                out.put_i32(1); // the first index
            }
            for value in values {
                out.put_i32(8);
                out.put_i64(value);
            }
        });
    }

    /// A value as long as what is written.
    pub(super) fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.0.len();
        self.0.put_i32(0);
        write(&mut self.0);
        let length = (self.0.len() - at - 4) as i32;
        self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Stores the rows. `statement` is a `copy … from stdin (format binary)`.
    pub(super) async fn store(
        mut self,
        db: &mut PgConnection,
        statement: &str,
    ) -> sqlx::Result<()> {
        self.0.put_i16(END);
        let mut copy = db.copy_in_raw(statement).await?;
        copy.send(self.0).await?;
        copy.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrations = "../migrations")]
    async fn values_of_every_type_are_read_as_they_were(db: sqlx::PgPool) {
        let mut db = db.acquire().await.unwrap();
        sqlx::raw_sql(
            "create temporary table copied (a smallint, b integer, c bigint, d boolean, e text,
               f bytea, g jsonb, h timestamptz, i bigint[], j bigint[], k text)",
        )
        .execute(&mut *db)
        .await
        .unwrap();
        let at = datetime!(2026-11-28 19:30:01.123456 UTC);
        let mut rows = Rows::new(0);
        for sign in [1, -1] {
            rows.row(11);
            rows.smallint(7 * sign);
            rows.integer(70_000 * i32::from(sign));
            rows.bigint(i64::MAX * i64::from(sign));
            rows.boolean(sign > 0);
            rows.bytes("Grüße".as_bytes());
            rows.bytes(&[0, 255]);
            rows.jsonb(r#"{"a": [1]}"#);
            rows.timestamptz(at);
            rows.bigints([].into_iter());
            rows.bigints([1, -2, 3].into_iter());
            rows.null();
        }
        rows.store(&mut db, "copy copied from stdin (format binary)")
            .await
            .unwrap();
        let same: bool = sqlx::query_scalar(
            r#"select count(*) = 2
                      and bool_and(abs(a) = 7 and abs(b) = 70000 and abs(c) = 9223372036854775807
                               and sign(a) = sign(b) and sign(b) = sign(c) and d = (a > 0)
                               and e = 'Grüße' and f = '\x00ff' and g = '{"a": [1]}' and h = $1
                               and i = '{}' and j = '{1,-2,3}' and k is null)
               from copied"#,
        )
        .bind(at)
        .fetch_one(&mut *db)
        .await
        .unwrap();
        assert!(same);
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_refused_row_leaves_the_connection_usable(db: sqlx::PgPool) {
        let mut db = db.acquire().await.unwrap();
        sqlx::raw_sql("create temporary table copied (a text)")
            .execute(&mut *db)
            .await
            .unwrap();
        let mut rows = Rows::new(0);
        rows.row(1);
        rows.bytes(b"a\0b");
        let refused = rows
            .store(&mut db, "copy copied from stdin (format binary)")
            .await;
        assert!(
            matches!(refused, Err(sqlx::Error::Database(_))),
            "{refused:?}"
        );
        let one: i32 = sqlx::query_scalar("select 1")
            .fetch_one(&mut *db)
            .await
            .unwrap();
        assert_eq!(one, 1);
    }
}
