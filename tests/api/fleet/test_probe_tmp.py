import json
from typing import Any
import pytest
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import *
from tests.api.fleet.test_items import policy, signed
from tests.api.fleet.test_tasks import CONNECT
from tests.store.fleet.kit import Place, SqlitePlace

def test_key_makes_admin(sqlite):
    async def body(api):
        root = await api.person("root", Role.ADMIN)
        key = await root.post("/auth/api-keys", {"name":"k","scopes":["tasks:read"]}, status=201)
        a = await api.ask("POST","/auth/register",{"username":"mallory","password":"x"*12,"role":"admin"},token=key["api_key"])
        print(a.status,a.body)
        assert a.status==403
    on(sqlite, body)

def test_big_reconcile(sqlite):
    async def body(api):
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge", node_type="any")
        big = ["x"*9000 for _ in range(400)]
        for _ in range(4):
            await bob.submit(inputs={"a": big})
        a = await edge.ask("POST", edge.own("/assignments/reconcile"), {"running":[]})
        print(a.status, len(a.body))
        assert len(a.body) < 8*1024*1024
    on(sqlite, body)

def test_big_results(sqlite):
    async def body(api):
        ann = await api.person("ann")
        edge = await ann.join("edge")
        for _ in range(10):
            t = await ann.submit()
            a = await edge.ask("POST", edge.own(f"/assignments/{t}/result"), {"status":"completed","result":"x"*3_000_000})
            print(a.status)
        a = await ann.ask("GET","/tasks?limit=500")
        print(len(a.body))
        assert len(a.body) < 8*1024*1024
    on(sqlite, body)

def test_rejected(sqlite):
    async def body(api):
        ann = await api.person("ann")
        e1 = await ann.join("e1")
        t = await ann.submit(away={"policy":"move","after_sec":60})
        await e1.post("/assignments/reconcile", {"running":[{"task_id":t}]})
        e2 = await ann.join("e2")
        api.later(200); await e2.beat(); 
        await api.sweep()
        print(await ann.get(f"/tasks/{t}"))
        await ann.post("/nodes/e1/reject")
        r = await e1.post("/assignments/reconcile", {"running":[{"task_id":t}]})
        print(r["verdicts"])
        a = await e1.ask("POST", e1.own(f"/assignments/{t}/result"), {"status":"completed","result":1})
        print(a.status,a.body)
        assert a.status!=200
    on(sqlite, body)

def test_lease_after_reject(sqlite):
    async def body(api):
        ann = await api.person("ann")
        edge = await ann.join("anns-node", node_type="any")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        await ann.post("/connect-sessions/start", {"task_id": task}, status=201)
        await ann.post("/nodes/anns-node/reject")
        got = await edge.get("/leases")
        print([i["kind"] for i in got["items"]])
        assert "revocation" in [i["kind"] for i in got["items"]]
    on(sqlite, body)

def test_lease_after_away(sqlite):
    async def body(api):
        ann = await api.person("ann")
        edge = await ann.join("anns-node", node_type="any")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        await ann.post("/connect-sessions/start", {"task_id": task}, status=201)
        api.later(1000)
        await api.sweep(); await api.sweep()
        print(api.rows("select status,end_reason from connect_sessions"))
        await edge.beat()
        got = await edge.get("/leases")
        print([i["kind"] for i in got["items"]])
        assert "revocation" in [i["kind"] for i in got["items"]]
    on(sqlite, body)

def test_items_other_owner(sqlite):
    async def body(api):
        ann, bob = await api.person("ann"), await api.person("bob")
        ea, eb = await ann.join("ea"), await bob.join("eb")
        it = signed(policy("p"))
        await bob.post("/policies", {"items":[it]}, status=201)
        await ann.post("/policies", {"items":[it]}, status=201)
        print(await ea.get("/policies"))
        assert (await ea.get("/policies"))["items"]
    on(sqlite, body)

def ses(i, **k):
    return {"agent_id":"a","agent_label":"a","model_id":"m","status":"success","started_at":"2026-11-20T12:00:00.000Z",**k}

def test_usage_overflow(place):
    async def body(api):
        ann = await api.person("ann")
        e = await ann.join("e")
        u = {"computed_at":"2026-11-20T12:00:00.000Z","total_tokens":2**63-1,"runtime_ms":2**63-1}
        await e.post("/ledger",{"after":0,"records":[{"seq":i,"session_id":f"s{i}","session":ses(i,runtime_ms=2**63-1),"usage":u} for i in (1,2,3)]})
        a = await ann.ask("GET","/nodes/e/usage")
        print(a.status,a.body)
        assert a.status==200
    on(place, body)

def test_deltav_zero(place):
    async def body(api):
        ann = await api.person("ann")
        e = await ann.join("e")
        t="2026-11-20T12:00:00.000Z"
        a = await e.ask("POST",e.own("/delta-v"),{"after":0,"records":[{"seq":1,"window_start":t,"window_end":t,"value":1,"samples":1}]})
        print(a.status,a.body)
        assert a.status==422
    on(place, body)

def test_years(place):
    async def body(api):
        ann = await api.person("ann")
        e = await ann.join("e")
        for t in ("0001-01-01T00:00:00.000Z","9999-12-31T23:59:59.999Z","0001-01-01T00:00:00.000+14:00","9999-12-31T23:59:59.999-14:00"):
            a = await e.ask("POST",e.own("/ledger"),{"after":0,"records":[{"seq":int(1+e.sequence),"session_id":"s"+t,"session":ses(1,started_at=t)}]})
            print(t,a.status,a.body)
            assert a.status<500
            a = await e.ask("PUT",e.own("/heartbeat"),{"at":t})
            print(t,a.status,a.body)
            assert a.status<500
            a = await ann.ask("GET","/nodes/e/ledger"); print(a.status); assert a.status<500
            a = await ann.ask("GET","/nodes/e/ledger?limit=1"); print(a.status,a.body); assert a.status<500
            cur=json.loads(a.body)["next_cursor"] if a.status==200 else None
            if cur:
                a = await ann.ask("GET","/nodes/e/ledger?limit=1&cursor="+cur); print(a.status); assert a.status<500
            a = await ann.ask("GET","/nodes/e/history"); print(a.status); assert a.status<500
            from urllib.parse import quote
            a = await ann.ask("GET","/nodes/e/usage?from="+quote(t)); print(a.status); assert a.status<500
            a = await ann.ask("GET","/nodes/e/delta-v?from="+quote(t)); print(a.status); assert a.status<500
    on(place, body)

def test_refresh_theft(sqlite):
    async def body(api):
        user = await api.person("ann")
        acc=api.plane.accounts
        from ambientd.core.fleet.records import UserRecord
        i = await api.plane.store.write(lambda tx: acc._issue(tx, user.user_id,"fam",api.clock.now(),parent=None))
        async def r(t):
            a=await api.ask("POST","/auth/refresh",{"refresh_token":t}); return a.status, json.loads(a.body)
        s,r1=await r(i.refresh_token)
        s,thief=await r(i.refresh_token)   # thief shows old one, successor unused
        print(s)
        s,_=await r(r1["refresh_token"])  # owner shows the one he got
        print("owner",s)
        s,_=await r(thief["refresh_token"])
        print("thief",s)
        assert s==401
    on(sqlite, body)

def test_rotations(sqlite):
    async def body(api):
        ann = await api.person("ann")
        e = await ann.join("e")
        from ambientd.core.fleet.signing import enrol_bytes
        key=public_of(e.seed)
        for _ in range(50):
            b={"public_key":show_key(key),"proof":sign(e.seed,enrol_bytes(node_id="e",public_key=key,join_token=e.answer["credential_id"])).hex()}
            a=await e.ask("POST",e.own("/credential/rotate"),b)
            assert a.status==201
        n=api.rows("select count(*) from device_credentials where revoked_at is null")
        print(n)
        assert n[0][0]<10
    on(sqlite, body)

def test_starve(sqlite):
    import time
    async def body(api):
        ann, bob = await api.person("ann"), await api.person("bob")
        for n in range(40): await ann.register(f"n{n}")
        t=time.monotonic()
        for _ in range(520):
            await bob.submit(requirements={"min_nodes":1000})
        print("submit", time.monotonic()-t)
        t=time.monotonic(); await api.sweep(); print("sweep", time.monotonic()-t)
        z = await ann.submit(requirements={"min_nodes":1,"require_gpu":True})
        await ann.register("gpu", capabilities={"bandwidth_mbps":1000,"cpu_cores":16,"memory_gb":64,"gpu_available":True})
        await api.sweep()
        x=await ann.get(f"/tasks/{z}")
        print(x["status"], (await ann.get("/tasks/"+z))["assigned_nodes"])
        assert x["status"]=="running"
    on(sqlite, body)
