//! Schemas of the values that write their own JSON, for the API's OpenAPI document.

use std::borrow::Cow;

use utoipa::{
    __dev::ComposeSchema,
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type},
};

use crate::{Permissions, Timestamp, gateway::Intents, id::Id, permissions::OverwriteKind};

macro_rules! schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    };
}

/// One schema for the ids of everything. utoipa's derive asks this of types with parameters.
impl<T> ComposeSchema for Id<T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        decimal(r"^[1-9]\d{0,18}$").into()
    }
}

impl<T> ToSchema for Id<T> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Snowflake")
    }
}

schema!(Permissions, "Permissions", decimal(r"^\d{1,20}$"));
schema!(
    Timestamp,
    "Timestamp",
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
);
schema!(
    Intents,
    "Intents",
    ObjectBuilder::new().schema_type(Type::Integer)
);
schema!(
    OverwriteKind,
    "OverwriteType",
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .enum_values(Some([0, 1]))
);

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn decimal(pattern: &str) -> ObjectBuilder {
    text().pattern(Some(pattern))
}
