"""Every field that Stripe's objects carry, with the value it has when nothing was said: builders overlay the rest.

Source: the API reference of the version in `settings.API_VERSION`; a test compares the keys with the official library.
"""

from copy import deepcopy

from wopr.emulators.documents import Document

ADDRESS: Document = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def blank(kind: str, **known: object) -> Document:
    """A new object of a kind: all of its fields, with the known ones filled in."""
    return {"object": kind} | deepcopy(_BLANK[kind]) | known


def _nulls(names: str) -> Document:
    return dict.fromkeys(names.split())


_BLANK: dict[str, Document] = {
    "customer": _nulls("""
        address currency default_source description discount email name phone shipping
        test_clock
    """)
    | {
        "balance": 0,
        "delinquent": False,
        "livemode": False,
        "metadata": {},
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
    },
    "product": _nulls("""
        default_price description package_dimensions shippable statement_descriptor tax_code
        unit_label url
    """)
    | {
        "active": True,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "type": "service",
    },
    "price": _nulls("""
        custom_unit_amount lookup_key nickname recurring tiers_mode transform_quantity
    """)
    | {
        "active": True,
        "billing_scheme": "per_unit",
        "livemode": False,
        "metadata": {},
        "tax_behavior": "unspecified",
    },
    "payment_method": _nulls("""
        customer
    """)
    | {
        "allow_redisplay": "always",
        "livemode": False,
        "metadata": {},
        "type": "card",
    },
    "checkout.session": _nulls("""
        after_expiration allow_promotion_codes billing_address_collection cancel_url
        client_reference_id client_secret collected_information consent consent_collection
        currency_conversion customer customer_creation customer_details customer_email invoice
        invoice_creation locale origin_context payment_intent payment_link permissions
        recovered_from saved_payment_method_options setup_intent shipping_address_collection
        shipping_cost submit_type subscription wallet_options
    """)
    | {
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "custom_fields": [],
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "shipping_options": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "payment_method_collection": "always",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "status": "open",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "adaptive_pricing": {"enabled": False},
        "ui_mode": "hosted_page",
    },
    "item": {
        "amount_discount": 0,
        "amount_tax": 0,
        "metadata": {},
    },
    "billing_portal.session": _nulls("""
        customer_account flow locale on_behalf_of return_url
    """)
    | {
        "configuration": "bpc_standin",
        "livemode": False,
    },
    "payment_intent": _nulls("""
        application application_fee_amount automatic_payment_methods canceled_at
        cancellation_reason customer description last_payment_error latest_charge next_action
        on_behalf_of payment_method payment_method_configuration_details processing
        receipt_email review setup_future_usage shipping source statement_descriptor
        statement_descriptor_suffix transfer_data transfer_group
    """)
    | {
        "amount_capturable": 0,
        "amount_received": 0,
        "capture_method": "automatic_async",
        "confirmation_method": "automatic",
        "livemode": False,
        "metadata": {},
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
        "amount_details": {"tip": {}},
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
    },
    "charge": _nulls("""
        application application_fee application_fee_amount balance_transaction customer
        description failure_balance_transaction failure_code failure_message on_behalf_of
        receipt_email receipt_number receipt_url review shipping source source_transfer
        statement_descriptor statement_descriptor_suffix transfer_data transfer_group
    """)
    | {
        "amount_captured": 0,
        "amount_refunded": 0,
        "captured": False,
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": {},
        "paid": False,
        "radar_options": {},
        "refunded": False,
    },
    "refund": _nulls("""
        balance_transaction charge payment_intent reason receipt_number source_transfer_reversal
        transfer_reversal
    """)
    | {
        "metadata": {},
        "status": "succeeded",
    },
    "dispute": _nulls("""
        payment_intent
    """)
    | {
        "evidence": {},
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "enhanced_eligibility_types": [],
        "balance_transactions": [],
        "reason": "fraudulent",
        "status": "needs_response",
    },
    "subscription": _nulls("""
        application application_fee_percent billing_cycle_anchor_config billing_thresholds
        cancel_at canceled_at days_until_due default_payment_method default_source description
        ended_at latest_invoice next_pending_invoice_item_invoice on_behalf_of pause_collection
        pending_invoice_item_interval pending_setup_intent pending_update schedule test_clock
        transfer_data trial_end trial_settings trial_start
    """)
    | {
        "automatic_tax": {
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
            "disabled_reason": None,
        },
        "billing_mode": {"type": "flexible"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "default_tax_rates": [],
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "status": "incomplete",
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
    },
    "subscription_item": _nulls("""
        billing_thresholds
    """)
    | {
        "discounts": [],
        "metadata": {},
        "tax_rates": [],
    },
    "invoice": _nulls("""
        account_tax_ids application automatically_finalizes_at custom_fields customer_address
        customer_phone customer_shipping default_payment_method default_source description
        due_date effective_at ending_balance footer from_invoice hosted_invoice_url invoice_pdf
        last_finalization_error latest_revision next_payment_attempt number on_behalf_of parent
        receipt_number rendering shipping_cost shipping_details statement_descriptor test_clock
        webhooks_delivered_at
    """)
    | {
        "account_country": "US",
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
            "disabled_reason": None,
        },
        "collection_method": "charge_automatically",
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    },
    "line_item": {
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "taxes": [],
    },
    "invoice_payment": _nulls("""
        amount_paid
    """)
    | {
        "is_default": True,
        "livemode": False,
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    },
    "balance_transaction": _nulls("""
        exchange_rate
    """)
    | {
        "balance_type": "payments",
        "fee": 0,
        "fee_details": [],
    },
    "webhook_endpoint": _nulls("""
        application description
    """)
    | {
        "livemode": False,
        "metadata": {},
        "status": "enabled",
    },
    "test_helpers.test_clock": _nulls("""
        name
    """)
    | {
        "livemode": False,
        "status": "ready",
        "status_details": {},
    },
    "event": {
        "livemode": False,
    },
}
