//! How a message that was held back is got: what `{release}` stands for.

use super::{Cause, Language, Notice};
use crate::Protocol;

/// One or two sentences in the language of the notice, with LF line ends, without the last.
pub(super) fn release(notice: &Notice<'_>, contact: &str, id: &str) -> String {
    let (kept, unscanned) = match notice.cause {
        Cause::Refused(finding) => (finding.quarantined, false),
        Cause::Unscanned { .. } => (false, true),
    };
    match (notice.language, notice.protocol) {
        (Language::English, protocol) => english(protocol, kept, unscanned, contact, id),
        (Language::Japanese, protocol) => japanese(protocol, kept, unscanned, contact, id),
    }
}

fn english(protocol: Protocol, kept: bool, unscanned: bool, contact: &str, id: &str) -> String {
    let who = if contact.is_empty() { "the person who looks after your network" } else { contact };
    let what = match (id, unscanned) {
        ("", true) => "the reason shown above".to_owned(),
        ("", false) => "the name and the date shown above".to_owned(),
        (id, _) => format!("this number: {id}"),
    };
    let ask = format!("ask\n{who}, and give\n{what}.");
    match (protocol, kept, unscanned) {
        (_, true, _) => format!(
            "If you expected this message: the gateway keeps a copy of it. To have\n\
             it released, {ask}"
        ),
        (Protocol::Pop3, false, false) => format!(
            "If you expected this message, or want help: {ask}\n\
             The original stays in your mailbox on the mail server until your mail\n\
             program deletes it there."
        ),
        (Protocol::Pop3, false, true) => format!(
            "The original stays in your mailbox on the mail server until your mail\n\
             program deletes it there, so fetch it again later. If this happens\n\
             again, {ask}"
        ),
        (Protocol::Smtp, false, false) => format!(
            "No copy of it was kept. If you expected this message, have it sent in\n\
             another way, or {ask}"
        ),
        (Protocol::Smtp, false, true) => format!(
            "No copy of it was kept: have it sent again later. If this happens\n\
             again, {ask}"
        ),
    }
}

fn japanese(protocol: Protocol, kept: bool, unscanned: bool, contact: &str, id: &str) -> String {
    let who = if contact.is_empty() { "ネットワークの管理担当者" } else { contact };
    let what = match (id, unscanned) {
        ("", true) => "上の理由".to_owned(),
        ("", false) => "上の検出名とメールの日付".to_owned(),
        (id, _) => format!("受付番号 {id} "),
    };
    match (protocol, kept, unscanned) {
        (_, true, _) => format!(
            "必要なメールである場合：元のメールの写しをゲートウェイに保管しています。\n\
             {what}を添えて、{who}に取り出しをご依頼ください。"
        ),
        (Protocol::Pop3, false, false) => format!(
            "必要なメールである場合や、ご不明な点がある場合は、{what}を添えて、\n\
             {who}にお問い合わせください。元のメールは、メールソフトが\n\
             削除するまでメールサーバーのメールボックスに残っています。"
        ),
        (Protocol::Pop3, false, true) => format!(
            "元のメールは、メールソフトが削除するまでメールサーバーのメールボックスに残って\n\
             います。しばらくしてから、もう一度受信してください。続く場合は、{what}を\n\
             添えて、{who}にお問い合わせください。"
        ),
        (Protocol::Smtp, false, false) => format!(
            "元のメールは保管していません。必要な場合は、別の方法で送ってもらうか、\n\
             {what}を添えて、{who}にお問い合わせください。"
        ),
        (Protocol::Smtp, false, true) => format!(
            "元のメールは保管していません。しばらくしてから、もう一度送ってもらって\n\
             ください。続く場合は、{what}を添えて、{who}にお問い合わせください。"
        ),
    }
}
