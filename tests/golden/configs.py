"""Golden runs of configs: users, overrides, shards, reloads."""

from __future__ import annotations

from typing import Any

from tests.golden import stage
from tests.golden.program import Incident
from tests.golden.scripted import (
    Script,
    raw,
    refused,
    user,
    users,
)
from tests.golden.sites import Simulated, config, elsewhere, scene, scripted, started, write
from tests.golden.stage import WALL, Call


@scene
async def names_and_watched_users() -> str:
    """Play `names` plain, hmac and off with users that are watched: top ones, others, and unknown ones."""
    recorded = ""
    for names in ("plain", "hmac", "off"):
        sections: dict[str, Any] = {"users": {"names": names}}
        if names == "hmac":
            sections["users"]["names_key_env"] = "KEY"
        watched = ["johnd", "maria", "nobody", "\u00e9" * 70, "sp ace&="]
        document = config(
            "a",
            "b",
            a={"watch_users": watched, "poll": {"top_users": {"count": 1, "order": "balance"}}},
            poll={"balances": {"interval": "1m"}},
            **sections,
        )
        environ = {**stage.secrets(document), "KEY": "key-of-names-of-users"}
        play = await started(document, Simulated("a", "b"), environ=environ)
        for moment in (5, 70, 130):
            await play.until(moment)
            await play.look()
        await play.page()
        recorded += await play.close()
    return recorded


@scene
async def all_users() -> str:
    """Walk over pages of users, with a page that vanishes, and a list with more pages than allowed."""
    script = Script()
    pages = {
        "": users(user("a", 1, 2, 3), user("b", 10, 20, 30), nextPage="c"),
        "c": users(user("c", 100, 200, 300), {"name": "broken"}, nextPage="d"),
        "d": users(user("d", "1000", "0.5", "-0.25"), user("d", 1, 1, 1)),
    }
    asked = []

    def walked(call: Call, _now: float) -> Any:
        asked.append(call.query.get("page", ""))
        return pages[call.query.get("page", "")]

    def vanishing(call: Call, _now: float) -> Any:
        asked.append(call.query.get("page", ""))
        vanished = call.query.get("page") == "d" and asked.count("d") % 3
        return refused("invalid_page") if vanished else pages[call.query.get("page", "")]

    def gone(call: Call, _now: float) -> Any:
        return refused("invalid_page") if "page" in call.query else pages[""]

    answers: dict[str, Any] = {
        "walked": walked,
        "vanishing": vanishing,
        "gone": gone,
        "circle": users(user("a"), nextPage=""),
        "circle2": users(user("a"), nextPage="a"),
        "endless": lambda call, _: users(user("a"), nextPage=call.query.get("page", "") + "x"),
        "empty": users(),
        "null": users(nextPage=None),
        "number": users(user("a"), nextPage=5),
        "failing": lambda call, _: raw("<html>", status=502) if "page" in call.query else pages[""],
    }
    for name, answer in answers.items():
        script.answers[name, "/user/list"] = answer
    polls = {"all_users": {"enabled": True, "interval": "1m", "page_size": 32, "max_pages": 5}}
    play = await started(config(*answers, poll=polls), scripted(script))
    for moment in (5, 70, 200, 500):
        await play.until(moment)
        await play.metrics()
    await play.status(query={"per_page": "100"})
    return await play.close()


@scene
async def overrides() -> str:
    """Sites with intervals, expiry, currencies and endpoints of their own, and few request slots."""
    document = config(
        "fast",
        "slow",
        "none",
        "eur",
        api={"max_concurrency": 2, "timeout": "3s"},
        poll={"payout": {"interval": "2m"}, "history": {"max_row_age": "3h"}},
        fast={
            "poll": {"payout": {"interval": "10s", "stale_after": "25s"}, "top_users": {"interval": "15s"}}
        },
        slow={"poll": {"payout": {"interval": "1h", "stale_after": "3h"}, "history": {"interval": "30m"}}},
        eur={"currency": "EUR \u20ac", "poll": {"all_users": {"enabled": True, "interval": "1m"}}},
    )
    simulated = Simulated("fast", "slow", "none", "eur", cumulative=True)
    play = await started(document, simulated)
    for site in simulated.world.sites.values():
        site.incidents.append(Incident("slow", WALL + 300, 120, delay=2.5))
        site.incidents.append(Incident("outage", WALL + 500, 400))
    for moment in (5, 130, 320, 420, 510, 530, 700, 950, 1300):
        await play.until(moment)
        await play.look()
    await play.page()
    return await play.close()


@scene
async def shards() -> str:
    """Share ten sites among three processes; one has a name that the status looks for; pages of sites."""
    names = [f"site-{number}" for number in range(10)]
    recorded = ""
    for number in range(3):
        play = await started(config(*names), scripted(Script()), shard=(number, 3))
        await play.until(5)
        await play.look()
        recorded += await play.close()
    play = await started(config(*names), scripted(Script()))
    await play.until(5)
    for query in (
        {"per_page": "3"},
        {"per_page": "3", "page": "3"},
        {"per_page": "x", "page": "-1"},
        {"per_page": "0"},
        {"site": "-7"},
        {"site": "SITE", "per_page": "4", "page": "99"},
        {"site": "<b>nothing</b>"},
    ):
        await play.status(query=query)
        await play.page(query=query)
        await play.run(2)
    return recorded + await play.close()


@scene
async def reloads() -> str:
    """Change a config in every way that a reload takes; each time what stays and what is forgotten."""
    document = config("a", "b", poll={"balances": {"interval": "1m"}})
    simulated = Simulated("a", "b", "c")
    environ = {f"SECRET_{name}": f"secret-of-{name}" for name in "abc"}
    environ |= {"NEW": "new-secret", "KEY": "one key for the names", "OTHER": "other key for the names"}
    play = await started(document, simulated, environ=environ)
    await play.until(100)
    await play.metrics()

    async def changed(title: str, document: object) -> None:
        play.note(f"reload: {title}")
        play.document = document
        await play.reload()
        await play.run(1.25)
        await play.look()
        await play.run(100)
        await play.metrics()

    await changed("nothing", document)
    await changed("a site added", document := config("a", "b", "c", poll=document["poll"]))
    await changed("a site removed", document := config("a", "c", poll=document["poll"]))
    await changed("sites in another order", config("c", "a", poll=document["poll"]))
    await changed(
        "watch list", config("a", "c", a={"watch_users": ["johnd", "maria"]}, poll=document["poll"])
    )
    await changed(
        "watch list again", config("a", "c", a={"watch_users": ["maria", "no"]}, poll=document["poll"])
    )
    await changed("watch list removed", document)
    await changed("an interval", config("a", "c", poll={"payout": {"interval": "20s"}}))
    await changed("an expiry", config("a", "c", poll={"payout": {"interval": "20s", "stale_after": "21s"}}))
    await changed("currency", config("a", "c", a={"currency": "EUR"}))
    await changed("page mode", config("a", "c", web={"sites_on_metrics": False}))
    await play.metrics("/probe", query={"target": "a"})
    await changed("names off", config("a", "c", users={"names": "off"}))
    await changed("names hmac", config("a", "c", users={"names": "hmac", "names_key_env": "KEY"}))
    await changed("names key", config("a", "c", users={"names": "hmac", "names_key_env": "OTHER"}))
    await changed("names plain", config("a", "c"))
    play.environ["SECRET_a"] = "new-secret"
    simulated.world.sites["a"].secret = "new-secret"
    await changed("secret", config("a", "c"))
    await changed("secret from elsewhere", config("a", "c", a={"secret_env": "NEW"}))
    await changed("URL", config("a", "c", api={"url": "http://127.0.0.2:1/prefix"}))
    await changed("time-out and slots", config("a", "c", api={"timeout": "3s", "max_concurrency": 1}))
    return await play.close()


@scene
async def reloads_refused() -> str:
    """Refuse bad configs: the old one stays, the reasons are told, and a good one makes all good."""
    document = config("a", "b", poll={"payout": {"interval": "1m"}})
    play = await started(document, Simulated("a", "b"))
    await play.until(70)
    bad: list[object] = [
        [],
        {},
        {"sites": []},
        "text",
        config("a", "a"),
        config("a", poll={"payout": {"interval": "1x"}, "top_users": {"count": 0, "order": "name"}}),
        config("a", api={"url": "http://example.org"}, users={"names": "hmac"}, colour="red"),
        config("unset"),
    ]
    for each in bad:
        play.document = each
        await play.reload()
        await play.run(2)
        await play.metrics()
    await play.status()
    await play.page()
    play.document = document
    await play.reload()
    await play.run(2)
    await play.look()
    recorded = await play.close()
    play = await started(document, Simulated("a", "b"), lifecycle=False)
    await play.until(2)
    await play.reload()
    return recorded + await play.close()


@scene
async def reloads_while_backed_off() -> str:
    """Reload while sites fail: back-offs end within an interval, what the API asked for stays."""
    document = config("out", "limited", "secret")
    simulated = Simulated("out", "limited", "secret")
    play = await started(document, simulated)
    for name, kind in (("out", "outage"), ("limited", "rate-limit"), ("secret", "wrong-secret")):
        incident = Incident(kind, WALL + 50, 1000, retry_after=900)
        simulated.world.sites[name].incidents.append(incident)
    await play.until(500)
    await play.metrics()
    await play.reload()
    await play.run(2)
    await play.metrics()
    await play.run(70)
    await play.metrics()
    play.document = config("out", "limited", "secret", poll={"payout": {"interval": "30s"}})
    await play.reload()
    await play.run(2)
    await play.metrics()
    await play.until(1400)
    await play.look()
    return await play.close()


@scene
async def secret_files() -> str:
    """Rotate a secret in a file: read before each call, and looked at while a site is backed off."""
    with elsewhere():
        write("secret", "secret-of-a\n")
        document = config("a", poll={"payout": {"interval": "5m"}, "history": {"interval": "10m"}})
        document["sites"] = [{"name": "a", "secret_file": "secret"}]
        simulated = Simulated("a")
        play = await started(document, simulated)
        await play.until(100)
        simulated.world.sites["a"].secret = "secret number two"
        await play.run(400)
        await play.metrics()
        write("secret", "secret number two")
        await play.run(15)
        await play.metrics()
        write("secret", None)
        await play.run(70)
        await play.metrics()
        write("secret", "a\nb")
        await play.run(70)
        await play.reload()
        write("secret", "secret number two again")
        await play.run(70)
        await play.look()
        return await play.close()
