"""The Prefect UI, as a person walks through it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

_ENDS = re.compile(r"^(Completed|Failed|Crashed|Cancelled)$")


@dataclass(frozen=True)
class PrefectPages:
    page: Page
    url: str
    keep: Callable[[str], None]
    """Takes a picture of the page under this name."""

    def open_form(self, deployment: str) -> None:
        """*Custom run* of a deployment."""
        self.page.goto(self.url)
        self.page.get_by_role("link", name="Deployments", exact=True).click()
        # The second link of this name is the flow's.
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_role("heading", name="Parameters").wait_for()

    def open_filled_in_form(self, path: str) -> None:
        """The form that a link of another page leads to."""
        self.page.goto(f"{self.url}{path}")
        self.page.get_by_role("heading", name="Parameters").wait_for()

    def answer(self, **answers: str) -> None:
        """Fill in fields of text."""
        for field, text in answers.items():
            self.page.get_by_role("textbox", name=field, exact=True).fill(text)

    def choose(self, field: str, option: str) -> None:
        """In a field with a list to choose from."""
        self.page.get_by_role("button", name=f"Select {field}").click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.page.keyboard.press("Escape")

    def submit(self, run: str) -> None:
        """Submit the form and stay on the run's page until it has completed.

        Args:
            run: the name that the run gives itself.
        """
        self.keep(f"{run}, form")
        self.page.get_by_role("button", name="Submit").click()
        self.page.get_by_role("button", name="Submit").wait_for(state="hidden")
        self.page.get_by_role("link", name="Runs", exact=True).first.click()
        self.page.get_by_role("link", name=run, exact=True).click()
        state = self.page.get_by_text(_ENDS).first
        state.wait_for()
        self.keep(f"{run}, run")
        expect(state).to_have_text("Completed")

    def tab(self, name: str) -> Locator:
        """A tab of the run's page, opened."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self.page.get_by_role("tabpanel", name=name, exact=True)

    def open_artifact(self, key: str) -> None:
        """The artifact of a key that a run has made, from the run's page."""
        heading = self.page.get_by_role("heading", name=key, exact=True)
        self.tab("Artifacts").get_by_role("link").filter(has=heading).click()
        self.page.get_by_role("tab", name="Raw").wait_for()
        self.keep(f"artifact {key}")
