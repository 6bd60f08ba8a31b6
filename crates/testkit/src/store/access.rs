//! Tokens, and the audit: who did what.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt as _, StreamExt as _};
use robata_core::{
    ErrorKind, IncarnationId, Role, TokenName,
    access::{AuditRecord, ListAudit, NewToken, Token, TokenHash},
    definition::CatalogWrite,
    executor::RealmId,
    job::{Cancel, NewJob, OneOff, RetryByHand},
    store::{Hint, Store},
};

use super::world::{World, job, kind, name};

const DAY: Duration = Duration::from_secs(86_400);

/// A token of its own secret.
fn new(named: &str, role: Role) -> Result<NewToken> {
    Ok(NewToken {
        name: name(named)?,
        role,
        app: None,
        hash: TokenHash::of(&IncarnationId::new().to_string()),
        lasts: None,
    })
}

async fn make(world: &World, named: &str) -> Result<Token> {
    Ok(world.store().create_token(new(named, Role::Read)?, "ann").await?)
}

fn list(change: impl FnOnce(&mut ListAudit)) -> ListAudit {
    let mut list = ListAudit::default();
    list.limit = 500;
    change(&mut list);
    list
}

async fn all(store: &dyn Store) -> Result<Vec<AuditRecord>> {
    Ok(store.audit(list(|_| ())).await?)
}

/// `tokens` MUST tell every token that is not revoked, as it was made.
pub async fn a_token_is_told_as_it_was_made(mut world: World) -> Result<()> {
    let store = world.store();
    let none = store.tokens().await?;
    ensure!(none.tokens.is_empty() && !none.ever, "{none:?}");
    let wide = new("ops-team", Role::Operate)?;
    let bound = NewToken {
        app: Some(name("shop")?),
        lasts: Some(DAY),
        ..new("Deploys_of-shop2", Role::Deploy)?
    };
    let made = [
        store.create_token(bound.clone(), "ann").await?,
        store.create_token(wide.clone(), "bob").await?,
    ];
    for (made, (new, by)) in made.iter().zip([(&bound, "ann"), (&wide, "bob")]) {
        let told = (&made.name, made.role, &made.app, made.hash, made.created_by.as_str());
        ensure!(told == (&new.name, new.role, &new.app, new.hash, by), "{made:?}");
        let expires = new.lasts.map(|lasts| made.created_at.plus(lasts));
        ensure!(made.expires_at == expires, "{made:?}");
    }
    for _ in 0..2 {
        let told = world.store().tokens().await?;
        ensure!(told.tokens == made && told.ever, "{told:?} of {made:?}");
        ensure!(
            told.now >= made[1].created_at && told.now.since(made[1].created_at) < DAY,
            "{told:?}"
        );
        world.harness.reopen().await?;
    }
    Ok(())
}

/// `create_token` MUST be `Conflict` where a token of that name is not revoked; a revoked one's name is free again.
pub async fn a_name_is_free_again_once_its_token_is_revoked(world: World) -> Result<()> {
    let store = world.store();
    let first = make(&world, "ci").await?;
    let again = store.create_token(new("ci", Role::Admin)?, "bob").await;
    ensure!(kind(&again) == Some(ErrorKind::Conflict), "{again:?}");
    ensure!(
        store.tokens().await?.tokens == [first.clone()],
        "a refused one changed something"
    );
    for _ in 0..2 {
        store.revoke_token(&first.name, "ann").await?;
        ensure!(store.tokens().await?.tokens.is_empty());
        let next = make(&world, "ci").await?;
        ensure!(store.tokens().await?.tokens == [next]);
    }
    Ok(())
}

/// A secret belongs to one token, be it revoked: a new name must not bring it to life again.
pub async fn a_secret_is_never_given_to_another_token(world: World) -> Result<()> {
    let store = world.store();
    let first = make(&world, "ci").await?;
    let with_its_secret = |named: &str| {
        let token = NewToken {
            hash: first.hash,
            ..new(named, Role::Admin)?
        };
        anyhow::Ok(token)
    };
    let taken = store.create_token(with_its_secret("other")?, "ann").await;
    ensure!(kind(&taken) == Some(ErrorKind::Conflict), "{taken:?}");
    store.revoke_token(&first.name, "ann").await?;
    for named in ["other", "ci"] {
        let taken = store.create_token(with_its_secret(named)?, "ann").await;
        ensure!(kind(&taken) == Some(ErrorKind::Conflict), "{taken:?}");
    }
    ensure!(store.tokens().await?.tokens.is_empty());
    Ok(())
}

/// Of concurrent ones with one name exactly one MUST make a token.
pub async fn of_fifty_tokens_with_one_name_at_once_one_is_made(world: World) -> Result<()> {
    let store = world.store();
    let calls = (0..50)
        .map(|_| Ok(store.create_token(new("ci", Role::Read)?, "ann")))
        .collect::<Result<Vec<_>>>()?;
    let mut made = Vec::new();
    for answer in futures::future::join_all(calls).await {
        match answer {
            Ok(token) => made.push(token),
            Err(error) => ensure!(error.kind() == ErrorKind::Conflict, "{error:?}"),
        }
    }
    ensure!(made.len() == 1, "{made:?}");
    ensure!(store.tokens().await?.tokens == made);
    let told = all(&*store).await?;
    let told = told.iter().filter(|record| record.action == "create_token").count();
    ensure!(told == 1, "{told} in the audit");
    Ok(())
}

/// `tokens` MUST tell also expired ones, whose names are not free.
pub async fn expired_tokens_are_told_until_they_are_revoked(world: World) -> Result<()> {
    let store = world.store();
    let short = NewToken {
        lasts: Some(Duration::from_secs(60)),
        ..new("ci", Role::Read)?
    };
    let made = store.create_token(short, "ann").await?;
    world.harness.advance(DAY);
    let told = store.tokens().await?;
    ensure!(told.tokens == [made.clone()], "{told:?}");
    ensure!(made.expires_at.context("no end")? < told.now, "{told:?}");
    let again = store.create_token(new("ci", Role::Read)?, "ann").await;
    ensure!(kind(&again) == Some(ErrorKind::Conflict), "{again:?}");
    store.revoke_token(&made.name, "ann").await?;
    ensure!(store.tokens().await?.tokens.is_empty());
    Ok(())
}

/// `ever` MUST stay true from the first one on.
pub async fn there_ever_was_a_token_though_it_was_revoked(mut world: World) -> Result<()> {
    let token = make(&world, "ci").await?;
    world.store().revoke_token(&token.name, "ann").await?;
    for _ in 0..2 {
        let told = world.store().tokens().await?;
        ensure!(told.tokens.is_empty() && told.ever, "{told:?}");
        world.harness.advance(DAY * 800);
        world.store().prune(500).await?;
        world.harness.reopen().await?;
    }
    Ok(())
}

/// What ended 30 days ago or longer, `prune` MAY remove, but `ever` MUST stay true and no token that is valid MUST be touched.
pub async fn tokens_that_ended_long_ago_are_forgotten_and_no_others(world: World) -> Result<()> {
    let store = world.store();
    make(&world, "first").await?;
    store.revoke_token(&name("first")?, "ann").await?;
    let lasting = |named: &str, lasts: Duration| {
        let token = NewToken {
            lasts: Some(lasts),
            ..new(named, Role::Read)?
        };
        anyhow::Ok(token)
    };
    let revoked = make(&world, "revoked").await?;
    store.revoke_token(&revoked.name, "ann").await?;
    store.create_token(lasting("short", DAY)?, "ann").await?;
    let stays = [
        make(&world, "forever").await?,
        store.create_token(lasting("long", DAY * 50)?, "ann").await?,
    ];
    let names = |told: &[Token]| told.iter().map(|token| token.name.to_string()).collect::<Vec<_>>();
    world.harness.advance(DAY * 30);
    store.prune(500).await?;
    // It ended 29 days ago.
    ensure!(names(&store.tokens().await?.tokens) == ["forever", "long", "short"]);
    world.harness.advance(DAY * 2);
    store.prune(500).await?;
    let told = store.tokens().await?;
    ensure!(told.tokens == stays && told.ever, "{told:?}");
    // Its name and its secret are nobody's any more.
    let again = NewToken {
        hash: revoked.hash,
        ..new("short", Role::Read)?
    };
    store.create_token(again, "ann").await?;
    Ok(())
}

/// `revoke_token` MUST be `NotFound` where no token of that name is left to revoke.
pub async fn a_token_is_revoked_once(world: World) -> Result<()> {
    let store = world.store();
    let (ci, other): (TokenName, TokenName) = (name("ci")?, name("other")?);
    ensure!(kind(&store.revoke_token(&ci, "ann").await) == Some(ErrorKind::NotFound));
    make(&world, "ci").await?;
    let stays = make(&world, "other").await?;
    let calls = futures::future::join_all((0..10).map(|_| store.revoke_token(&ci, "ann"))).await;
    let (done, refused): (Vec<_>, Vec<_>) = calls.iter().partition(|answer| answer.is_ok());
    ensure!(done.len() == 1, "{done:?}");
    ensure!(
        refused.iter().all(|answer| kind(answer) == Some(ErrorKind::NotFound)),
        "{refused:?}"
    );
    ensure!(store.tokens().await?.tokens == [stays]);
    store.revoke_token(&other, "ann").await?;
    Ok(())
}

/// [`Hint::Tokens`] MUST be given from `create_token` and `revoke_token`.
pub async fn making_and_revoking_a_token_is_hinted_at(world: World) -> Result<()> {
    let store = world.store();
    let mut hints = store.hints();
    for revoke in [false, true] {
        while let Some(Some(_)) = hints.next().now_or_never() {}
        if revoke {
            store.revoke_token(&name("ci")?, "ann").await?;
        } else {
            make(&world, "ci").await?;
        }
        let heard = async {
            while let Some(hint) = hints.next().await {
                if hint == Hint::Tokens {
                    return true;
                }
            }
            false
        };
        ensure!(tokio::time::timeout(Duration::from_secs(10), heard).await?, "no hint");
    }
    Ok(())
}

fn write(app: &str) -> Result<CatalogWrite> {
    Ok(CatalogWrite::App(name(app)?, Default::default()))
}

/// `audit` MUST tell, newest first, who made and revoked tokens, changed the catalog, ran one-offs, cancelled and retried jobs,
/// paused and resumed queues, drained workers and called realms lost.
pub async fn the_audit_tells_who_did_what(mut world: World) -> Result<()> {
    let store = world.store();
    let before = all(&*store).await?.first().map_or(0, |record| record.seq);
    let worker = world.worker().await?;
    let failed = world.failed(worker).await?.id.job;
    let waits = world.one(job("shop", "mail")?).await?.id;
    let gone = world.worker().await?;
    let lost = super::operate::prepared(&world, gone, "mail", "gone").await?;

    make(&world, "ci").await?;
    let revision = store.catalog().await?.revision;
    let writes = vec![
        write("zoo")?,
        CatalogWrite::Defaults(Default::default()),
        CatalogWrite::Queue(name("vip")?, Default::default()),
        CatalogWrite::Job(name("zoo")?, name("feed")?, Default::default(), Default::default()),
        CatalogWrite::DeleteJob(name("zoo")?, name("feed")?),
        CatalogWrite::DeleteApp(name("zoo")?),
    ];
    store.change_catalog(revision, writes, "bob").await?;
    let by = || "cid".to_owned();
    let own = OneOff {
        by: by(),
        ..OneOff::default()
    };
    let one_off = NewJob {
        definition: Some(Box::new(own)),
        ..job("shop", "by-hand")?
    };
    let ran = world.one(one_off.clone()).await?.id.to_string();
    // Sent again it is the same one.
    world.one(one_off).await?;
    store.cancel(Cancel { job: waits, by: by() }).await?;
    store.retry(RetryByHand { job: failed, by: by() }).await?;
    store.pause(&name("vip")?, Some("why"), "dora").await?;
    store.pause(&name("vip")?, None, "dora").await?;
    store.drain(worker, "eve").await?;
    store.release(gone).await?;
    ensure!(store.lose(&RealmId("gone".into()), "eve").await? == [lost]);
    store.revoke_token(&name("ci")?, "ann").await?;

    let (worker, waits, failed) = (worker.to_string(), waits.to_string(), failed.to_string());
    let expected = [
        ["ann", "create_token", "", "ci", ""],
        ["bob", "set_app", "zoo", "", ""],
        ["bob", "set_defaults", "", "", ""],
        ["bob", "set_queue", "", "vip", ""],
        ["bob", "set_definition", "zoo", "feed", ""],
        ["bob", "delete_definition", "zoo", "feed", ""],
        ["bob", "delete_app", "zoo", "", ""],
        ["cid", "run", "shop", "by-hand", ran.as_str()],
        ["cid", "cancel", "shop", "mail", waits.as_str()],
        ["cid", "retry", "shop", "mail", failed.as_str()],
        ["dora", "pause_queue", "", "vip", ""],
        ["dora", "resume_queue", "", "vip", ""],
        ["eve", "drain_worker", "", worker.as_str(), ""],
        ["eve", "lose_realm", "", "gone", ""],
        ["ann", "revoke_token", "", "ci", ""],
    ];
    for _ in 0..2 {
        let mut told = all(&*world.store()).await?;
        ensure!(told.is_sorted_by(|a, b| a.seq > b.seq && a.at >= b.at), "{told:?}");
        told.retain(|record| record.seq > before);
        told.reverse();
        let words: Vec<_> = told
            .iter()
            .map(|record| {
                let app = record.app.as_ref().map_or("", |app| app.as_str()).to_owned();
                let job = record.job.map_or_else(String::new, |job| job.to_string());
                let name = record.name.clone().unwrap_or_default();
                [record.by.clone(), record.action.clone(), app, name, job]
            })
            .collect();
        ensure!(words == expected, "{words:#?}");
        world.harness.reopen().await?;
    }
    Ok(())
}

/// What changed nothing MUST NOT be told.
pub async fn what_changed_nothing_is_not_in_the_audit(world: World) -> Result<()> {
    let store = world.store();
    let worker = world.worker().await?;
    let (runs, waits) = (
        world.running(worker, "resize").await?.id.job,
        world.one(job("shop", "mail")?).await?.id,
    );
    let by = || "ann".to_owned();
    let twice = async || -> Result<()> {
        let revision = store.catalog().await?.revision;
        store.change_catalog(revision, Vec::new(), "ann").await?;
        let late = store.change_catalog(revision - 1, vec![write("zoo")?], "ann").await;
        ensure!(late.is_err());
        for job in [runs, waits] {
            store.cancel(Cancel { job, by: by() }).await?;
        }
        store.retry(RetryByHand { job: runs, by: by() }).await?;
        ensure!(store.retry(RetryByHand { job: waits, by: by() }).await.is_err());
        store.pause(&name("vip")?, Some("why"), "ann").await?;
        store.pause(&name("mail")?, None, "ann").await?;
        store.drain(worker, "ann").await?;
        ensure!(store.drain(IncarnationId::new(), "ann").await.is_err());
        ensure!(store.lose(&RealmId("here".into()), "ann").await.is_err());
        ensure!(store.lose(&RealmId("nowhere".into()), "ann").await?.is_empty());
        Ok(())
    };
    make(&world, "ci").await?;
    twice().await?;
    let before = all(&*store).await?;
    twice().await?;
    let refused = store.create_token(new("ci", Role::Read)?, "ann").await;
    ensure!(kind(&refused) == Some(ErrorKind::Conflict), "{refused:?}");
    ensure!(store.revoke_token(&name("other")?, "ann").await.is_err());
    let after = all(&*store).await?;
    ensure!(after == before, "{:?}", &after[..after.len() - before.len()]);
    Ok(())
}

/// Pages by keyset: each record once, newest first, whatever is filtered and whatever is added meanwhile.
pub async fn audit_pages_give_each_record_once(world: World) -> Result<()> {
    let store = world.store();
    let bank = world.one(job("bank", "pay")?).await?.id;
    let mut jobs = Vec::new();
    for at in 0..12 {
        jobs.push(world.one(job("shop", "mail")?).await?.id);
        let by = ["ann", "bob"][at % 2].to_owned();
        store.cancel(Cancel { job: jobs[at], by }).await?;
    }
    let by = "ann".to_owned();
    store.cancel(Cancel { job: bank, by }).await?;
    store.pause(&name("shop")?, Some("why"), "bob").await?;
    let everything = all(&*store).await?;
    let lists: [(ListAudit, usize); 7] = [
        (list(|_| ()), everything.len()),
        (list(|list| list.app = "bank".parse().ok()), 3),
        (list(|list| list.by = Some("ann".into())), 7),
        (list(|list| list.by = Some("bob".into())), 7),
        (
            list(|list| (list.app, list.by) = ("shop".parse().ok(), Some("ann".into()))),
            6,
        ),
        (list(|list| list.job = Some(jobs[3])), 1),
        (
            list(|list| (list.job, list.by) = (Some(jobs[3]), Some("ann".into()))),
            0,
        ),
    ];
    for (list, expected) in lists {
        let matches = |record: &&AuditRecord| {
            (list.app.is_none() || record.app == list.app)
                && (list.job.is_none() || record.job == list.job)
                && list.by.as_ref().is_none_or(|by| record.by == *by)
        };
        let wanted: Vec<_> = everything.iter().filter(matches).cloned().collect();
        ensure!(wanted.len() == expected, "{list:?}: {wanted:?}");
        for limit in [1, 2, 5, 500] {
            let mut page = list.clone();
            page.limit = limit;
            let mut told = Vec::new();
            loop {
                let records = store.audit(page.clone()).await?;
                ensure!(records.len() <= limit, "{} of {limit}", records.len());
                let Some(last) = records.last() else { break };
                page.before = Some(last.seq);
                told.extend(records);
                if told.len() == wanted.len() / 2 {
                    // Above the page: nobody who reads down sees it.
                    store
                        .pause(&name("other")?, Some(&format!("{list:?} {limit}")), "zed")
                        .await?;
                }
            }
            told.retain(|record| record.by != "zed");
            ensure!(told == wanted, "{list:?} by {limit}: {told:?}");
        }
    }
    let other = list(|list| list.app = "nobodys".parse().ok());
    ensure!(store.audit(other).await?.is_empty());
    Ok(())
}

/// Records a year old MAY be removed: younger ones MUST NOT.
pub async fn the_audit_is_kept_for_a_year(world: World) -> Result<()> {
    let store = world.store();
    let old = make(&world, "old").await?;
    world.harness.advance(DAY * 200);
    make(&world, "young").await?;
    let seqs = |records: &[AuditRecord]| records.iter().map(|record| record.seq).collect::<BTreeSet<_>>();
    let before = seqs(&all(&*store).await?);
    world.harness.advance(DAY * 164);
    for _ in 0..3 {
        store.prune(500).await?;
    }
    ensure!(seqs(&all(&*store).await?) == before);
    world.harness.advance(DAY * 200);
    for _ in 0..3 {
        store.prune(500).await?;
    }
    let left = all(&*store).await?;
    ensure!(
        left.first()
            .is_some_and(|record| record.name.as_deref() == Some("young")),
        "{left:?}"
    );
    // The token is no record of it.
    ensure!(store.tokens().await?.tokens.contains(&old));
    Ok(())
}
