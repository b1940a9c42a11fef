//! What a proxy keeps of mails, as its operator looks at it.

use std::fs;

use super::*;

const KEEPING: &str = "[scan]\non_infected = \"refuse+quarantine\"\n";
/// Of every session that a played box opens.
const SESSION: &str = "09090909090909090909090909090909";

async fn refused(lab: &Lab, server: &MailServer) {
    let mut session = lab.admitted().await.session(server.address).await;
    let reply = session.send_mail(EICAR_MAIL).await;
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
}

#[tokio::test]
async fn what_is_refused_is_kept_shown_released_and_deleted() {
    let server = MailServer::start().await;
    let lab = Lab::start_with(server.address, KEEPING, |_| {}).await;
    refused(&lab, &server).await;
    let list = lab.verb(&["quarantine", "list", "--json"]).unwrap();
    let item: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(item["session"], SESSION);
    assert_eq!(item["client"], "02:00:00:00:00:01", "the box's number");
    let id = item["id"].as_str().unwrap();
    let shown = lab.verb(&["quarantine", "show", id]).unwrap();
    assert!(shown.contains(SESSION) && shown.contains("EICAR"), "{shown}");
    let sealed = fs::read(lab.path(&format!("state/quarantine/{id}.sealed"))).unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"Subject"), "it lies there in clear");
    let file = lab.path("mail.eml");
    lab.verb(&["quarantine", "release", id, "--to", file.to_str().unwrap()]).unwrap();
    assert_eq!(fs::read(&file).unwrap(), EICAR_MAIL.as_bytes());
    lab.verb(&["quarantine", "delete", id]).unwrap();
    let error = lab.verb(&["quarantine", "show", id]).unwrap_err();
    assert!(error.contains("there is no item"), "{error}");
}

#[tokio::test]
async fn what_happened_to_a_mail_is_told_by_its_session() {
    let server = MailServer::start().await;
    let lab = Lab::start_with(server.address, KEEPING, |_| {}).await;
    refused(&lab, &server).await;
    let text = lab.verb(&["trace", &SESSION[..8]]).unwrap();
    assert!(text.contains(&format!("session {SESSION}")), "{text}");
    assert!(text.contains("it was refused (554)") && text.contains("quarantine show"), "{text}");
    let error = lab.verb(&["trace", "a0a0a0a0"]).unwrap_err();
    assert!(error.starts_with("avr-proxy: no mail of a0a0a0a0 in the journal"), "{error}");
    // Another key: the copies are of no use to who has the disk alone.
    let (_, key) = wire::identity::FleetCa::create().unwrap().issue(&[Role::Proxy], "x").unwrap();
    fs::write(lab.path("a.key"), key.expose()).unwrap();
    let list = lab.verb(&["quarantine", "list"]).unwrap();
    assert!(list.contains("sealed with another private key"), "{list}");
}

#[tokio::test]
async fn without_a_quarantine_a_mail_is_refused_all_the_same() {
    let server = MailServer::start().await;
    let tables = format!("{KEEPING}[quarantine]\nmode = \"off\"\n");
    let lab = Lab::start_with(server.address, &tables, |_| {}).await;
    refused(&lab, &server).await;
    assert!(!lab.path("state/quarantine").exists());
    let text = lab.verb(&["trace", SESSION]).unwrap();
    assert!(text.contains("it was refused (554)") && !text.contains("copy"), "{text}");
}
