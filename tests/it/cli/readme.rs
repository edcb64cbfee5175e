//! The README against the code. `UPDATE_DOCS=1` writes what is generated.

use std::{env, fs, path::Path};

use refresh_worker::config::variables::markdown_table;

const BEGIN: &str = "<!-- settings: generated from src/config/variables.rs -->\n";
const END: &str = "<!-- end of settings -->\n";

#[test]
fn the_readme_lists_every_setting_with_default_meaning_and_example() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the begin mark");
    let (_, after) = rest.split_once(END).expect("the end mark");
    let current = format!("{before}{BEGIN}{}{END}{after}", markdown_table());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &current).unwrap();
    } else {
        assert_eq!(readme, current, "run again with UPDATE_DOCS=1");
    }
}
