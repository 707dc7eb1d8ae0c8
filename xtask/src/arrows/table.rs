//! The tables of allowed arrows in ARCHITECTURE.md: what is drawn there is what is enforced.

/// Who may name whom. The order is part of the rule: a line may only name what stands above it, so that no circle can
/// be drawn.
#[derive(Debug)]
pub struct Arrows {
    lines: Vec<(String, Vec<String>)>,
}

impl Arrows {
    /// Reads the Markdown table whose first column has the head `head` (`Room`, `Crate`). The first column holds the name
    /// in backticks, the second the names it may use, in backticks too.
    ///
    /// # Errors
    /// What is wrong with the table, in words.
    pub fn read(document: &str, head: &str) -> Result<Self, String> {
        let first = format!("| {head} |");
        let rows = document
            .lines()
            .skip_while(|line| !line.starts_with(&first))
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for row in rows {
            let mut cells = row.trim_matches('|').split('|');
            let (Some(name), Some(uses)) = (cells.next(), cells.next()) else {
                return Err(format!("a row of two cells at least is expected: {row}"));
            };
            let names = in_backticks(name);
            let [name] = names.as_slice() else {
                return Err(format!("one name in backticks is expected: {row}"));
            };
            let uses = in_backticks(uses);
            if let Some(below) = uses
                .iter()
                .find(|used| !lines.iter().any(|(n, _)| n == *used))
            {
                return Err(format!(
                    "`{name}` may not use `{below}`, which does not stand above it: that could be a circle"
                ));
            }
            lines.push((name.clone(), uses));
        }
        if lines.is_empty() {
            return Err(format!("there is no table whose first column is `{head}`"));
        }
        Ok(Self { lines })
    }

    /// What `name` may use; `None` when the table does not know it.
    pub fn of(&self, name: &str) -> Option<&[String]> {
        let line = self.lines.iter().find(|(n, _)| n == name)?;
        Some(&line.1)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(name, _)| name.as_str())
    }
}

fn in_backticks(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Arrows;

    const TABLE: &str = "text\n\n| Room | May use | Why |\n|---|---|---|\n| `a` | | low |\n| `b` | `a` | high |\n\nmore";

    #[test]
    fn a_table_says_who_may_use_whom() {
        let arrows = Arrows::read(TABLE, "Room").expect("a table");
        assert_eq!(arrows.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(arrows.of("b"), Some(["a".to_owned()].as_slice()));
        assert_eq!(arrows.of("c"), None);
    }

    #[test]
    fn a_circle_cannot_be_drawn() {
        let circle = TABLE.replace("| `a` | |", "| `a` | `b` |");
        assert!(
            Arrows::read(&circle, "Room")
                .expect_err("a circle")
                .contains("`b`")
        );
        assert!(Arrows::read(TABLE, "Crate").is_err());
    }
}
