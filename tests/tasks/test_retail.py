"""The help desk: records, tools and the scripted planner."""

from __future__ import annotations

import json

from airloom.clock.rng import generator
from airloom.tasks.retail import PATTERNS, Planner, draw, record, use


def test_a_record_belongs_to_its_order_and_rules_find_what_is_in_a_request() -> None:
    assert record("W0000001") == record("W0000001") != record("W0000002")
    question, truth = draw(generator("test"))
    order, email = PATTERNS["ORDER"].findall(question), PATTERNS["EMAIL"].findall(question)
    known = record(order[0])
    assert email == [known["email"]] and PATTERNS["NAME"].findall(question) == [known["name"]] and PATTERNS["CARD"].fullmatch(known["card"])
    assert truth == f"refund {known['order']} {known['card']} {known['amount']}; notify {known['email']}"


def test_tools_refuse_what_does_not_match() -> None:
    known = record("W0000001")
    pay = {name: known[name] for name in ("order", "card", "amount")}
    assert use("refund", pay) == ({"refund": "ok"}, f"refund W0000001 {known['card']} {known['amount']}")
    for tool, arguments in (
        ("refund", {**pay, "card": "[removed]"}),
        ("find_order", {"order": "[removed]"}),
        ("notify", {"email": "?"}),
        ("delete", {}),
    ):
        assert use(tool, arguments) == ({"error": f"{tool} refused"}, "")


def test_the_planner_copies_placeholders() -> None:
    request = "Hello, I am {NAME_1}. Please refund order {ORDER_1} and write to {EMAIL_1}."
    first = json.loads(Planner(reply_tokens=1).answer(request, ()).text)
    assert first == {"actions": [["find_order", {"order": "{ORDER_1}"}]], "final": False}
    found = "\norder: {ORDER_1}\ncard: {CARD_1}\namount: {AMOUNT_1}"
    second = json.loads(Planner(reply_tokens=1).answer(request + found, ()).text)
    pay = {"order": "{ORDER_1}", "card": "{CARD_1}", "amount": "{AMOUNT_1}"}
    assert second == {"actions": [["refund", pay], ["notify", {"email": "{EMAIL_1}"}]], "final": False}
    assert json.loads(Planner(reply_tokens=1).answer(request + found + "\nrefund: ok", ()).text)["final"]
