//! What actions took when they last ran, over sessions: a table of the database.

use super::subject::ActionKey;
use anyhow::Result;
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::time::Duration;

/// This table came after the others; to older programs, which do not look for it, the database is as good with it as
/// without.
pub const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS costs(key INTEGER PRIMARY KEY, peak_bytes INTEGER NOT NULL, wall_ms INTEGER NOT NULL);
";

/// What an action took on a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Most memory of one of its processes.
    pub peak_bytes: u64,
    /// From its assignment to its result.
    pub wall: Duration,
}

impl Cost {
    /// Is it about the same? What differs by less than a quarter is not worth a write.
    pub fn resembles(self, other: Cost) -> bool {
        let close = |a: u128, b: u128| a.abs_diff(b) * 4 <= a.max(b);
        close(self.peak_bytes.into(), other.peak_bytes.into()) && close(self.wall.as_millis(), other.wall.as_millis())
    }
}

/// All that is kept.
///
/// # Errors
/// The database cannot be read.
pub fn load(connection: &Connection) -> Result<HashMap<ActionKey, Cost>> {
    let mut statement = connection.prepare("SELECT key, peak_bytes, wall_ms FROM costs")?;
    let cost = |row: &rusqlite::Row<'_>| {
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        let cost = Cost { peak_bytes: number(1)?, wall: Duration::from_millis(number(2)?) };
        Ok((number(0)?, cost))
    };
    Ok(statement.query_map([], cost)?.collect::<Result<_, _>>()?)
}

/// # Errors
/// The database cannot be written.
pub fn write(transaction: &Connection, key: ActionKey, cost: Cost) -> Result<()> {
    let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO costs VALUES (?1, ?2, ?3)")?;
    let wall_ms = i64::try_from(cost.wall.as_millis()).unwrap_or(i64::MAX);
    insert.execute(params![key as i64, cost.peak_bytes as i64, wall_ms])?;
    Ok(())
}

/// Forgets those whose action is forgotten.
///
/// # Errors
/// The database cannot be written.
pub fn evict(transaction: &Connection) -> Result<()> {
    transaction.execute("DELETE FROM costs WHERE key NOT IN (SELECT key FROM actions)", [])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLE).unwrap();
        connection
            .execute_batch("CREATE TABLE actions(key INTEGER PRIMARY KEY); INSERT INTO actions VALUES (-1)")
            .unwrap();
        let cost = |seconds| Cost { peak_bytes: 1 << 40, wall: Duration::from_secs(seconds) };
        for (key, seconds) in [(7, 1), (7, 2), (u64::MAX, 3)] {
            write(&connection, key, cost(seconds)).unwrap();
        }
        assert_eq!(load(&connection).unwrap(), HashMap::from([(7, cost(2)), (u64::MAX, cost(3))]));
        evict(&connection).unwrap();
        assert_eq!(load(&connection).unwrap(), HashMap::from([(u64::MAX, cost(3))]));
    }

    #[test]
    fn about_the_same() {
        let cost = |peak_bytes, seconds| Cost { peak_bytes, wall: Duration::from_secs(seconds) };
        assert!(cost(100, 10).resembles(cost(80, 8)) && cost(0, 0).resembles(cost(0, 0)));
        assert!(!cost(100, 10).resembles(cost(70, 10)) && !cost(100, 10).resembles(cost(100, 14)));
    }
}
