//! The mailbox on one server, where one script sees all keys.

use super::{MAX_ORPHANS, entry_of};
use crate::queue::{
    MAX_MAIL_BYTES, MailLimits, QueueError,
    mailbox::{Mail, ScanStep},
    record::MAX_BODY_BYTES,
    redis::{RedisQueue, arguments::Arguments, call::Call, rows::MailRow, scripts},
};

pub(super) async fn read(queue: &RedisQueue, limits: MailLimits) -> Result<Mail, QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(limits.per_class).number(limits.reach());
    arguments.number(limits.bytes_of_part()).number(limits.bytes_of_sample());
    arguments.number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES).number(MAX_ORPHANS).number(limits.scan.max(1));
    let call = Call::Script(&scripts::READ_MAIL, queue.keys.with_mailbox(), &arguments);
    let (more, from, to, rows): (bool, String, String, Vec<MailRow>) = queue.link.ask("reading mail", call).await?;
    let entries = rows.into_iter().map(|row| entry_of(queue, row)).collect::<Result<_, _>>()?;
    Ok(Mail { entries, more, scan: Some(ScanStep { from, to }) })
}
