//! `queue backup`: the file, its safety, and that nothing is changed.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{Bed, clans};

#[tokio::test]
async fn backup_is_complete_and_private() {
    let bed = Bed::fresh().await;
    bed.fill().await;
    let before = bed.everything().await;
    let output = bed.json(&["queue", "backup", "--dir", "backups", "--json"]).await;
    assert_eq!(bed.everything().await, before, "Redis is only read");
    let kinds = ["dead letters", "delayed", "leased", "mailbox", "next requests", "orphans", "ready", "unreadable"];
    for kind in kinds {
        assert_eq!(output["kinds"][kind], 1, "{kind}: {output}");
    }
    let file = bed.shell.folder().join(output["file"].as_str().unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing unfinished beside it");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 9, "a first line, seven entries, a last line: {text}");
}

#[tokio::test]
async fn backup_contains_no_password() {
    let bed = Bed::fresh().await;
    bed.command::<()>(&["ACL", "SETUSER", "operator", "on", ">hunter2", "~*", "+@all"]).await;
    let shell = super::Shell::new()
        .with("REDIS_URL", bed.url.replace("redis://", "redis://operator:hunter2@"))
        .with("QUEUE_BACKUP_DIR", "backups");
    bed.enqueue(&clans(3)).await;
    let output = shell.run(&["queue", "backup"]).await.well();
    assert!(output.starts_with("backed up 3 entries"), "{output}");
    let file = fs::read_dir(shell.folder().join("backups")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(file).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("operator"), "{text}");
}

#[tokio::test]
async fn backup_deletes_old_backups() {
    let bed = Bed::fresh().await;
    let folder = bed.shell.folder().join("backups");
    bed.shell.run(&["queue", "backup", "--dir", "backups"]).await.well();
    let made = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let old = folder.join("refresh-queue-20200101T000000000Z.jsonl");
    fs::rename(made, &old).unwrap();
    fs::write(folder.join("refresh-queue-20200102T000000000Z.jsonl"), "somebody's own").unwrap();
    let output = bed.json(&["queue", "backup", "--dir", "backups", "--json"]).await;
    assert_eq!(output["deleted"], serde_json::json!(["refresh-queue-20200101T000000000Z.jsonl"]));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "the new one, and what is not ours");
}

#[tokio::test]
async fn backup_without_folder_names_the_settings() {
    let output = Bed::fresh().await.shell.run(&["queue", "backup"]).await.badly(2);
    assert!(output.contains("QUEUE_BACKUP_DIR") && output.contains("--dir"), "{output}");
}
