//! The endpoints, a file per resource.

use axum::Router;

use crate::app::App;

/// Every endpoint below the version prefix.
pub(crate) fn router() -> Router<App> {
    Router::new()
}
