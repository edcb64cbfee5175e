//! Names, lists of schemas and command lines, as the PostgreSQL server reads them.

/// The name in SQL's quotation marks.
pub(super) fn quoted(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The words of a command line as the server splits it: at spaces, but not at `\ `.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("there is always one");
        match character {
            '\\' => word.extend(characters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The word with its spaces and backslashes escaped.
pub(super) fn escaped(word: &str) -> String {
    let mut text = String::new();
    for character in word.chars() {
        if character == '\\' || character.is_ascii_whitespace() {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// The schemas of a `search_path`, as the server reads it. `None` when it is not a list of names.
pub fn schemas_in(list: &str) -> Option<Vec<String>> {
    let mut schemas = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (schema, after) = if let Some(inside) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut inside = inside;
            loop {
                let (part, after) = inside.split_once('"')?;
                name.push_str(part);
                match after.strip_prefix('"') {
                    Some(after) => (name.push('"'), inside = after).1,
                    None => break (name, after),
                }
            }
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
            (rest[..end].to_lowercase(), &rest[end..])
        };
        if schema.is_empty() || schema.contains(['\0', '\n', '\r']) {
            return None;
        }
        schemas.push(schema);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) if !next.trim().is_empty() => next.trim_start(),
            None if after.is_empty() => "",
            _ => return None,
        };
    }
    Some(schemas)
}
