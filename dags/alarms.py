"""Alarms: what deserves a person's look, sent through Airflow's notifiers and deadlines."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import urllib.request
from datetime import timedelta
from http.client import HTTPException
from typing import Any

from airflow.sdk import BaseNotifier

from dags.runner import VerbOperator
from pipelines.config import load_config
from pipelines.orchestration.partition_key import SCHEDULED

ALARM_SETTING = "LOOPFM_ALARM_URL"
log = logging.getLogger(__name__)


class AlarmNotifier(BaseNotifier):
    """Logs an alarm and posts ``{"text": ..}`` to LOOPFM_ALARM_URL, where that is set (chat systems take this form)."""

    template_fields = ("text",)

    def __init__(self, *, text: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.text = text

    def notify(self, context: Any) -> None:
        """Send the alarm; a receiver that cannot be reached, or is no address, is logged and fails nothing."""
        log.warning("ALARM %s", self.text)
        target = os.environ.get(ALARM_SETTING)
        if not target:
            return
        body, kind = json.dumps({"text": self.text}).encode(), {"Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(target, body, kind), timeout=20).close()
        except (OSError, ValueError, HTTPException) as error:
            log.error("%s: the alarm could not be sent: %s", ALARM_SETTING, error)

    async def async_notify(self, context: Any) -> None:
        """The same from the triggerer, where missed deadlines are handled and a slow receiver must hold up nothing."""
        await asyncio.to_thread(self.notify, context)


def failure_alarm() -> AlarmNotifier:
    """Tells of a task that has failed for good: nothing after it runs, so that ``watch`` cannot tell of anything."""
    part = "{{ dag_run.partition_key or params.part or dag_run.run_id }}"
    return AlarmNotifier(text=f"{{{{ ti.dag_id }}}}: {{{{ ti.task_id }}}} of {part} failed: {{{{ exception }}}}")


class WatchOperator(VerbOperator):
    """Step ``watch``: sends what it finds; the run itself goes on, since its rows are good.

    Only a run that readers wait for can publish late: it gets ``--live``. That is a scheduled one made within
    ``schedule.late`` of its partition's end, also where the run before or an outage held it up.
    """

    def execute(self, context: Any) -> Any:
        """Run the verb and send each alarm."""
        facts = super().execute(context)
        for alarm in facts.get("alarms", []):
            text = f"{self.dag_id}: {alarm['kind']} {alarm['part']}: {alarm['text']}"
            AlarmNotifier(text=text).notify(context)
        return facts

    def _arguments(self, context: Any) -> list[str]:
        run, late = context["dag_run"], load_config(self.conf).schedule.late
        live = run.run_type == SCHEDULED and run.start_date - run.run_after < timedelta(milliseconds=late)
        return [*super()._arguments(context), *(["--live"] if live else [])]
