//! The schemas of the shared tables, and whether a statement without a schema reaches them.

use sqlx::PgConnection;

use super::problem::Problem;
use crate::columns::from_row;

const PLACES: &str = include_str!("../sql/postgres/places.sql");

/// The six shared tables, each with a column that distinguishes it from an unrelated table of the same name.
const CONTRACT: [(&str, &str); 6] = [
    ("clans", "tag"),
    ("players", "tag"),
    ("clan_snapshots", "clan_tag"),
    ("player_snapshots", "player_tag"),
    ("war_snapshots", "clan_tag"),
    ("clan_memberships", "player_tag"),
];

/// A schema with some of the tables. Its name is quoted for use in a statement.
#[derive(Debug)]
pub(super) struct Place {
    schema: String,
    /// True when new tables would be created there.
    is_current: bool,
    may_look: bool,
    /// True when the search path names it.
    is_on_path: bool,
    /// Tables that a statement without a schema reaches.
    seen: Vec<String>,
    hidden: Vec<String>,
    role: String,
    database: String,
}

from_row!(postgres: Place { schema, is_current, may_look, is_on_path, seen, hidden, role, database });

impl Place {
    /// The statements that make its tables visible.
    fn fix(&self) -> String {
        let Self { schema, role, database, .. } = self;
        let usage = if self.may_look { String::new() } else { format!("GRANT USAGE ON SCHEMA {schema} TO {role}; ") };
        if self.is_on_path && !self.may_look {
            return usage.trim_end().to_owned();
        }
        format!(
            "{usage}ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}, public; or add \
             ?options=-csearch_path%3D{schema} to DATABASE_URL"
        )
    }
}

/// The schemas with some of the six tables, the one with most of them first.
pub(super) async fn of_contract(connection: &mut PgConnection, keeps: bool) -> Result<Vec<Place>, sqlx::Error> {
    let (names, keys): (Vec<&str>, Vec<&str>) = CONTRACT.into_iter().unzip();
    sqlx::query_as(PLACES).persistent(keeps).bind(names).bind(keys).fetch_all(connection).await
}

/// The problem when missing tables cannot be created here, since others of the six are in another schema: there would be two
/// sets. `None` when nothing is missing, or all existing ones are in the schema in which the rest would be created.
pub(super) fn elsewhere(places: &[Place]) -> Option<Problem> {
    let seen: Vec<&String> = places.iter().flat_map(|place| &place.seen).collect();
    if seen.len() == CONTRACT.len() {
        return None;
    }
    let place = places.iter().find(|place| !place.is_current || !place.hidden.is_empty())?;
    let mut tables: Vec<&str> = place.seen.iter().chain(&place.hidden).map(String::as_str).collect();
    tables.sort_unstable();
    let missing: Vec<&str> =
        CONTRACT.iter().map(|(name, _)| *name).filter(|name| !seen.iter().any(|seen| seen == name)).collect();
    let what = format!(
        "the tables {} are in the schema {}, and {} cannot be seen by the search path: a second set is not made",
        tables.join(", "),
        place.schema,
        missing.join(", ")
    );
    Some(Problem::new(what, place.fix()))
}

/// The problem of a second complete set beside the one in use.
pub(super) fn second_set(places: &[Place]) -> Option<Problem> {
    let place = places.iter().find(|place| place.hidden.len() == CONTRACT.len())?;
    let used = places.iter().find(|place| !place.seen.is_empty())?;
    let what =
        format!("there is a second set of the six tables in the schema {}; {} is used", place.schema, used.schema);
    Some(Problem::doubt(what, format!("if that is the wrong one: {}", place.fix())))
}

/// The names of the shared tables that a statement without a schema does not reach.
pub(super) fn missing(places: &[Place]) -> Vec<&'static str> {
    let is_seen = |name: &str| places.iter().any(|place| place.seen.iter().any(|seen| seen == name));
    CONTRACT.iter().map(|(name, _)| *name).filter(|name| !is_seen(name)).collect()
}
